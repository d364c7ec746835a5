// SPDX-License-Identifier: Apache-2.0
// The fleet and its health on a manual clock, without probes.

import type { ProbeFailure } from "../../src/engines/prober.ts";
import { assertEquals } from "@std/assert";
import { ManualClock } from "../../src/base/clock.ts";
import { parseConfig } from "../../src/config/load.ts";
import { Fleet } from "../../src/control/fleet.ts";
import { FleetHealth } from "../../src/control/fleet_health.ts";
import type { EndpointSpec } from "../../src/discovery/discovery.ts";
import { EndpointState, EndpointTable } from "../../src/tables/endpoint_table.ts";
import { RequestTable } from "../../src/tables/request_table.ts";
import { PLAIN } from "../../src/upstream/transport.ts";
import { freshKernels } from "../support/kernel.ts";
import { KeptLog } from "../support/parts.ts";

const specs = (...ports: number[]): EndpointSpec[] =>
  ports.map((port) => ({ host: "10.0.0.1", port, rank: 0, labels: {} }));

function parts(changes: Record<string, unknown> = {}, endpoints = 64) {
  const [kernel, worker] = freshKernels({ endpoints });
  const clock = new ManualClock(1_700_000_000_000);
  const log = new KeptLog();
  const config = parseConfig({
    probes: { enabled: false },
    timeouts: { drain_ms: 10_000 },
    outliers: { eject_ms: 1_000, slow_start_ms: 4_000 },
    clusters: [{ name: "c" }],
    ...changes,
  });
  const fleet = new Fleet(kernel, config, clock, log);
  const told: string[] = [];
  fleet.listen({
    changed: () => told.push("changed"),
    members: (cluster) => told.push(`members ${cluster}`),
    freeing: () => told.push("freeing"),
    freed: (row) => told.push(`freed ${row}`),
    measured: ({ name }) => told.push(`measured ${name}`),
  });
  const rows = { clusters: new Map([["c", 0]]), models: new Map(), tenants: new Map(), labels: new Map() };
  const configure = (clusters = rows.clusters) =>
    fleet.configure({ config, rows: { ...rows, clusters } }, () => new Map(), new Map([["c", PLAIN]]));
  configure();
  const requests = new RequestTable(worker);
  const states = () => fleet.members.map(({ name, row }) => `${name.split(":")[1]} ${fleet.table.state(row)}`);
  return { kernel, clock, log, fleet, told, configure, requests, states, config };
}

const { available, draining } = EndpointState;

Deno.test("Fleet: an endpoint that leaves finishes what it has; its row is freed when it has and the drain time is over", () => {
  const { clock, fleet, told, requests, states } = parts();
  fleet.start();
  fleet.setEndpoints("c", specs(1, 2));
  const [, second] = fleet.members;
  const request = requests.tryOpen(0, 0, 100)!;
  request.grant(second.row, 0, clock.shared());
  fleet.setEndpoints("c", specs(1));
  assertEquals(states(), [`1 ${available}`, `2 ${draining}`]);
  clock.advance(60_000);
  assertEquals(fleet.members.length, 2, "its request goes on");
  request.release();
  told.length = 0;
  clock.advance(250);
  assertEquals([states(), told], [[`1 ${available}`], ["freeing", `freed ${second.row}`, "members c"]]);
  fleet.stop();
});

Deno.test("Fleet: one that comes back while its row rests keeps it, and is drained no more", () => {
  const { clock, fleet, states } = parts();
  fleet.start();
  fleet.setEndpoints("c", specs(1, 2));
  const [, { row }] = fleet.members;
  fleet.setEndpoints("c", specs(1));
  clock.advance(9_000);
  fleet.setEndpoints("c", specs(1, 2));
  assertEquals(states(), [`1 ${available}`, `2 ${available}`]);
  clock.advance(60_000);
  assertEquals([fleet.members.length, fleet.members[1].row], [2, row]);
  fleet.stop();
});

Deno.test("Fleet: who finds no row is told of once, gets one when some are freed, and is told of again later", () => {
  const { clock, log, fleet } = parts({}, 16);
  fleet.start();
  const told = () => log.lines.filter((line) => line === "error an endpoint found no row").length;
  const all = Array.from({ length: 18 }, (_, i) => i + 1);
  fleet.setEndpoints("c", specs(...all));
  assertEquals([fleet.members.length, fleet.unplaced, told()], [16, 2, 1]);
  clock.advance(5_000);
  assertEquals([fleet.unplaced, told()], [2, 1], "it is tried four times a second, and said once");
  fleet.setEndpoints("c", specs(...all.slice(2)));
  clock.advance(2_500);
  assertEquals([fleet.unplaced, fleet.available], [0, 16]);
  fleet.setEndpoints("c", specs(...all.slice(1)));
  assertEquals(told(), 2);
  fleet.stop();
});

Deno.test("Fleet: a cluster that leaves the configuration lets all its endpoints go, and is forgotten when they have gone", () => {
  const { clock, fleet, configure } = parts();
  fleet.start();
  fleet.setEndpoints("c", specs(1, 2));
  configure(new Map());
  assertEquals([fleet.available, fleet.forget("c")], [0, false]);
  clock.advance(11_000);
  assertEquals([fleet.members.length, fleet.forget("c")], [0, true]);
  fleet.stop();
});

Deno.test("Fleet: drained by hand, it gets nothing until it is resumed; unknown names are said", () => {
  const { fleet, states } = parts();
  fleet.setEndpoints("c", specs(1, 2));
  assertEquals([fleet.setDraining("10.0.0.1:2", true), fleet.setDraining("10.0.0.9:2", true)], [true, false]);
  assertEquals([states(), fleet.available], [[`1 ${available}`, `2 ${draining}`], 1]);
  fleet.setDraining("10.0.0.1:2", false);
  assertEquals(fleet.available, 2);
  fleet.stop();
});

Deno.test("Fleet: stopped, it looks at nothing any more", () => {
  const { clock, fleet, log } = parts();
  fleet.start();
  fleet.setEndpoints("c", specs(1));
  fleet.stop();
  const [{ row }] = fleet.members;
  for (let i = 0; i < 5; i++) fleet.table.countFailure(row);
  fleet.setEndpoints("c", []);
  clock.advance(600_000);
  assertEquals([fleet.members.length, log.lines.length], [1, 1]);
});

function health(names: string[], changes: Record<string, unknown> = {}) {
  const [kernel, worker] = freshKernels();
  const clock = new ManualClock(1_700_000_000_000);
  const log = new KeptLog();
  const config = parseConfig({ outliers: { eject_ms: 1_000, slow_start_ms: 4_000, ...changes } });
  const table = new EndpointTable(kernel);
  const returned: string[] = [];
  const all = new FleetHealth<{ cluster: string; name: string; row: number }>({
    table,
    config,
    clock,
    log,
    returned: ({ name }) => returned.push(name),
    looked() {},
  });
  const patients = names.map((name, i) => ({
    cluster: "c",
    name,
    row: table.add(0, { hostname: name, port: i + 1 }, 100, 0),
  }));
  for (const patient of patients) all.add(patient, false);
  all.start();
  const fail = (i: number, times = 3) => {
    for (let n = 0; n < times; n++) table.countFailure(patients[i].row);
  };
  const states = () => patients.map(({ row }) => table.state(row));
  return { clock, log, table, all, patients, returned, fail, states, requests: new RequestTable(worker) };
}

const { ejected, trial, unhealthy } = EndpointState;

Deno.test("FleetHealth: failures in a row eject, at most the configured share, and never the last", () => {
  const { clock, all, fail, states } = health(["a", "b", "c", "d"]);
  for (let i = 0; i < 4; i++) fail(i);
  clock.advance(50);
  assertEquals(states().filter((state) => state === ejected).length, 2, "half of them");
  all.stop();
  const alone = health(["a"], { max_ejected_percent: 99 });
  alone.fail(0);
  alone.clock.advance(50);
  assertEquals(alone.states(), [available]);
  alone.all.stop();
});

Deno.test("FleetHealth: a trial after the time of the ejection; a success brings back with a slow start, a failure doubles it", () => {
  const { clock, all, table, patients: [{ row }, other], fail, states, requests } = health(["a", "b"]);
  fail(0);
  clock.advance(50);
  clock.advance(990);
  assertEquals(states()[0], ejected);
  clock.advance(50);
  assertEquals(states()[0], trial);
  fail(0, 1);
  clock.advance(50);
  assertEquals(states()[0], ejected);
  clock.advance(1_900);
  assertEquals(states()[0], ejected);
  clock.advance(150);
  assertEquals(states()[0], trial);
  for (let i = 0; i < 8; i++) requests.tryOpen(0, 0, 100)!.grant(other.row, 0, clock.shared());
  table.countSuccess(row);
  clock.advance(50);
  assertEquals([states()[0], table.penalty(row)], [available, 8]);
  clock.advance(2_000);
  assertEquals(table.penalty(row), 4);
  clock.advance(2_000);
  assertEquals(table.penalty(row), 0);
  all.stop();
});

Deno.test("FleetHealth: probes that fail take it out, one that is answered brings it back", () => {
  const { all, patients: [a], log, states } = health(["a", "b"]);
  all.probed(a, { healthy: false });
  assertEquals(states()[0], available);
  all.probed(a, { healthy: false, why: "no route" });
  assertEquals(states()[0], unhealthy);
  all.probed(a, { healthy: true });
  assertEquals(states()[0], available);
  assertEquals(log.lines, ["warn endpoint is unhealthy", "info endpoint is available"]);
  all.stop();
});

Deno.test("FleetHealth: what it held is not known after nobody had listened, and is after a blip", () => {
  for (const [failure, expected] of [["silent", []], ["status", []], ["refused", ["a"]]] as const) {
    const { all, patients: [a], returned } = health(["a", "b"]);
    for (let i = 0; i < 2; i++) all.probed(a, { healthy: false, failure });
    all.probed(a, { healthy: false, failure: "silent" });
    all.probed(a, { healthy: true });
    assertEquals(returned, expected, failure);
    all.stop();
  }
});

Deno.test("FleetHealth: who answers requests is not unhealthy because it is slow to answer probes", () => {
  const { all, table, patients: [a], states } = health(["a", "b"]);
  for (let i = 0; i < 10; i++) {
    table.countSuccess(a.row);
    all.probed(a, { healthy: false, failure: "silent" });
    assertEquals(states()[0], available);
  }
  // Nothing was answered since, and a status that says so is believed in any case.
  for (let i = 0; i < 2; i++) all.probed(a, { healthy: false, failure: "silent" });
  assertEquals(states()[0], unhealthy);
  table.countSuccess(a.row);
  all.probed(a, { healthy: false, failure: "status" });
  assertEquals(states()[0], unhealthy);
  all.probed(a, { healthy: false, failure: "silent" });
  assertEquals(states()[0], unhealthy);
  table.countSuccess(a.row);
  all.probed(a, { healthy: false, failure: "silent" });
  assertEquals(states()[0], available);
  all.stop();
});

Deno.test("FleetHealth: when nobody else is left, those serve who listen; where nobody listens, nobody does", () => {
  const { clock, all, table, patients, states } = health(["a", "b", "c"]);
  const [a, b, c] = patients;
  const serving = () => patients.map(({ row }) => table.serving(row));
  const fail = (patient: typeof a, failure: ProbeFailure) => {
    for (let i = 0; i < 2; i++) all.probed(patient, { healthy: false, failure });
  };
  fail(a, "silent");
  fail(b, "refused");
  clock.advance(50);
  assertEquals([states(), serving()], [[unhealthy, unhealthy, available], [false, false, true]]);
  fail(c, "status");
  clock.advance(50);
  assertEquals([states(), serving()], [[unhealthy, unhealthy, unhealthy], [true, false, true]]);
  all.probed(c, { healthy: true });
  clock.advance(50);
  assertEquals([states(), serving()], [[unhealthy, unhealthy, available], [false, false, true]]);
  all.stop();
});

Deno.test("FleetHealth: one that asks to be left alone is, for the longest time that it asked for, and no longer", () => {
  const { clock, all, table, patients: [{ row }] } = health(["a", "b"]);
  table.backOff(row, 1_000);
  clock.advance(50);
  assertEquals(table.backedOff(row), true);
  table.backOff(row, 200);
  clock.advance(950);
  assertEquals(table.backedOff(row), true);
  clock.advance(100);
  assertEquals(table.backedOff(row), false);
  all.stop();
  clock.advance(60_000);
});

Deno.test("Fleet: each data-parallel rank is an endpoint; when there are other ranks, those that are gone leave", () => {
  const { fleet, config } = parts({ clusters: [{ name: "c", data_parallel_ranks: 3 }] });
  fleet.setEndpoints("c", specs(1, 2));
  const names = () => fleet.members.filter(({ leftAt }) => leftAt === undefined).map(({ name }) => name);
  assertEquals(names(), ["1", "1#1", "1#2", "2", "2#1", "2#2"].map((name) => `10.0.0.1:${name}`));
  assertEquals(fleet.members.map(({ row }) => fleet.table.address(row).rank ?? 0), [0, 1, 2, 0, 1, 2]);
  const rows = { clusters: new Map([["c", 0]]), models: new Map(), tenants: new Map(), labels: new Map() };
  const ranks = (data_parallel_ranks: number) => {
    const clusters = [{ ...config.clusters[0], data_parallel_ranks }];
    fleet.configure({ config: { ...config, clusters }, rows }, () => new Map(), new Map([["c", PLAIN]]));
  };
  ranks(1);
  assertEquals(names(), ["10.0.0.1:1", "10.0.0.1:2"]);
  ranks(2);
  assertEquals(names().sort(), ["1", "1#1", "2", "2#1"].map((name) => `10.0.0.1:${name}`));
  fleet.setDraining("10.0.0.1:1", true);
  assertEquals(fleet.members.map(({ row }) => fleet.table.state(row) === draining), [
    true,
    true,
    true,
    false,
    false,
    true,
  ]);
});

Deno.test("Fleet: what others read of an engine counts in the order in which it was read, and is no restart but by its start", () => {
  let restarts = 0;
  const [plain] = freshKernels({ endpoints: 64 });
  const exports = new Proxy(plain.exports, {
    get: (target, key) => {
      if (key === "indexForget") restarts++;
      return target[key as keyof typeof target];
    },
  });
  const clock = new ManualClock(1_700_000_000_000);
  const config = parseConfig({ probes: { enabled: false }, clusters: [{ name: "c" }] });
  const fleet = new Fleet({ ...plain, exports }, config, clock, new KeptLog());
  const rows = { clusters: new Map([["c", 0]]), models: new Map(), tenants: new Map(), labels: new Map() };
  fleet.configure({ config, rows }, () => new Map(), new Map([["c", PLAIN]]));
  fleet.setEndpoints("c", specs(1));
  const [member] = fleet.members;
  restarts = 0;
  const tell = (waiting: number, promptTokens: number, ageMs: number, startTime = 5) => {
    fleet.heard(member.row, { signals: { waiting, promptTokens, startTime }, ageMs, costMs: 1 });
    return [fleet.table.gauges(member.row).waiting, member.promptTokens, restarts];
  };
  assertEquals(tell(1, 1_100, 120), [1, 1_100, 0]);
  assertEquals(tell(2, 1_000, 150), [1, 1_100, 0], "it was overtaken on its way");
  clock.advance(200);
  assertEquals(tell(3, 1_050, 120), [3, 1_100, 0], "a little older than it seems");
  assertEquals(tell(4, 1_200, 90, Number.NaN), [3, 1_100, 0], "none of it can be read");
  clock.advance(200);
  assertEquals(tell(5, 1_300, 120, 60), [5, 1_300, 1], "it began anew");
});
