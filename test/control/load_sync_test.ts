// SPDX-License-Identifier: Apache-2.0
import { assert, assertEquals } from "@std/assert";
import { ManualClock } from "../../src/base/clock.ts";
import { parseConfig } from "../../src/config/load.ts";
import type { Fleet } from "../../src/control/fleet.ts";
import { LoadSync } from "../../src/control/load_sync.ts";
import type { Member } from "../../src/control/member.ts";
import type { CenterLink, LinkListener } from "../../src/metadata/link.ts";
import type { CenterEvent } from "../../src/metadata/server.ts";
import { EndpointTable } from "../../src/tables/endpoint_table.ts";
import { RequestTable } from "../../src/tables/request_table.ts";
import { freshKernels } from "../support/kernel.ts";

class KeptLink implements CenterLink {
  readonly sent: [cluster: string, type: string, id: string][] = [];
  clusters: readonly string[] = [];
  open: (cluster: string) => CenterEvent[] = () => [];
  stopped = false;
  nobody = false;
  send(cluster: string, events: CenterEvent[]): void {
    for (const { type, body } of events) this.sent.push([cluster, type, (body as { request_id: string }).request_id]);
  }
  start(clusters: readonly string[], _: LinkListener, open: (cluster: string) => CenterEvent[]): void {
    this.clusters = clusters;
    this.open = open;
  }
  setClusters(clusters: readonly string[]): void {
    this.clusters = clusters;
  }
  wantsMore(): boolean {
    return false;
  }
  alone(): boolean {
    return this.nobody;
  }
  stop(): Promise<void> {
    this.stopped = true;
    return Promise.resolve();
  }
  calls(): [] {
    return [];
  }
  view() {
    return [];
  }
}

function parts(ports = [1, 2]) {
  const [kernel, worker] = freshKernels();
  const clock = new ManualClock(1_700_000_000_000);
  const table = new EndpointTable(kernel);
  const members = ports.map((port) => {
    const address = { hostname: "10.0.0.1", port };
    return {
      cluster: "c",
      row: table.add(0, address, 100, 0),
      address,
      spec: { rank: 0 },
      ranks: 1,
    } as unknown as Member;
  });
  const fleet = {
    table,
    membersOf: (cluster: string) => cluster === "c" ? members : [],
    memberOf: (row: number) => members.find((member) => member.row === row),
  } as unknown as Fleet;
  const config = parseConfig({
    metadata_center: { report_interval_ms: 20, stale_after_ms: 1_000, fade_ms: 1_000 },
  });
  const link = new KeptLink();
  const sync = new LoadSync({ kernel, fleet, link, config: config.metadata_center, clock, gateway: "me" });
  const rows = {
    clusters: new Map([["c", 0]]),
    models: new Map(),
    tenants: new Map([["anonymous", 0]]),
    labels: new Map(),
  };
  sync.configure({ config, rows }, ["c"]);
  sync.start();
  const requests = new RequestTable(worker);
  const seen = () => members.map(({ row }) => table.remoteRequests(row));
  const load = (port: number | undefined, queued: number) => ({
    host: "10.0.0.1",
    ...(port === undefined ? {} : { port }),
    queued,
    promptLength: 10 * queued,
    updatedMs: 0,
  });
  return { clock, kernel, table, members, link, sync, requests, seen, load, config, rows };
}

Deno.test("LoadSync: a request's grant, first token and end are told in order, once each, in the time of a report", async () => {
  const { clock, members: [{ row }], link, sync, requests } = parts();
  const request = requests.tryOpen(0, 0, 100)!;
  clock.advance(20);
  assertEquals(link.sent, [], "who waits is no load");
  request.grant(row, 0, clock.shared());
  clock.advance(19);
  assertEquals(link.sent, []);
  clock.advance(1);
  request.dispatch(clock.shared(), false);
  request.firstToken(clock.shared());
  clock.advance(20);
  clock.advance(200);
  request.release();
  clock.advance(20);
  assertEquals(link.sent.map(([, type]) => type), ["load.stats.set", "load.prompt.delete", "load.stats.delete"]);
  assertEquals(new Set(link.sent.map(([, , id]) => id)).size, 1);
  await sync.stop();
});

Deno.test("LoadSync: a request that came and went between two reports leaves nothing at the center", async () => {
  const { clock, members: [{ row }], link, sync, requests } = parts();
  const request = requests.tryOpen(0, 0, 100)!;
  request.grant(row, 0, clock.shared());
  request.release();
  clock.advance(100);
  const balance = link.sent.reduce(
    (sum, [, type]) => sum + ({ "load.stats.set": 1, "load.stats.delete": -1 }[type] ?? 0),
    0,
  );
  assertEquals(balance, 0);
  await sync.stop();
});

Deno.test("LoadSync: a center that knows nothing is told what is open, and stop reports the end of everything", async () => {
  const { clock, members: [{ row }], link, sync, requests } = parts();
  const request = requests.tryOpen(0, 0, 100)!;
  request.grant(row, 0, clock.shared());
  clock.advance(20);
  assertEquals(link.open("c").map(({ type }) => type), ["load.stats.set"]);
  assertEquals(link.open("other"), []);
  request.release();
  await sync.stop();
  assertEquals([link.sent.at(-1)![1], link.stopped], ["load.stats.delete", true]);
  const count = link.sent.length;
  clock.advance(60_000);
  assertEquals(link.sent.length, count);
});

Deno.test("LoadSync: the others' load counts while it is fresh, fades when it is stale, and comes back", async () => {
  const { clock, sync, seen, load } = parts();
  sync.loads("c", [load(1, 10)], true);
  assertEquals(seen(), [0, 0], "the center was never heard of as fresh");
  sync.fresh("c");
  assertEquals(seen(), [10, 0]);
  clock.advance(1_000);
  assertEquals(seen(), [10, 0]);
  clock.advance(500);
  assertEquals(seen(), [5, 0]);
  clock.advance(600);
  assertEquals([seen(), sync.view()], [[0, 0], [{ cluster: "c", age_ms: 2_100, weight: 0 }]]);
  sync.fresh("c");
  assertEquals(seen(), [10, 0]);
  await sync.stop();
});

Deno.test("LoadSync: a whole snapshot replaces, a change adds to it, an idle engine goes; a figure without a port is shared out", async () => {
  const { sync, seen, load } = parts();
  sync.fresh("c");
  sync.loads("c", [load(1, 4), load(2, 6)], true);
  sync.loads("c", [load(2, 8)], false);
  assertEquals(seen(), [4, 8]);
  sync.loads("c", [load(1, 0)], false);
  assertEquals(seen(), [0, 8]);
  sync.loads("c", [load(undefined, 6)], true);
  assertEquals(seen(), [3, 3]);
  sync.loads("other", [load(1, 9)], true);
  assertEquals(seen(), [3, 3]);
  await sync.stop();
});

Deno.test("LoadSync: an endpoint that comes later has the load that was told before; clusters come and go", async () => {
  const { table, members, sync, link, seen, load, config, rows } = parts();
  sync.fresh("c");
  sync.loads("c", [load(3, 7)], true);
  assertEquals(seen(), [0, 0]);
  const address = { hostname: "10.0.0.1", port: 3 };
  members.push(
    { cluster: "c", row: table.add(0, address, 100, 0), address, spec: { rank: 0 }, ranks: 1 } as unknown as Member,
  );
  sync.membersChanged("c");
  assertEquals(seen(), [0, 0, 7]);
  sync.configure({ config, rows }, ["c", "d"]);
  assertEquals(link.clusters, ["c", "d"]);
  sync.configure({ config, rows }, ["d"]);
  assertEquals([link.clusters, sync.view().map(({ cluster }) => cluster)], [["d"], ["d"]]);
  assert(link.open("c").length === 0);
  await sync.stop();
});

Deno.test("LoadSync: nothing is told while nobody wants to know, and all when somebody does or asks", async () => {
  const { clock, members: [{ row }], link, sync, requests } = parts();
  link.nobody = true;
  clock.advance(100);
  const begin = () => {
    const request = requests.tryOpen(0, 0, 100)!;
    request.grant(row, 0, clock.shared());
    return request;
  };
  const first = begin();
  clock.advance(1_000);
  assertEquals(link.sent, []);
  sync.asked();
  assertEquals(link.sent.map(([, type]) => type), ["load.stats.set"]);
  const second = begin();
  first.release();
  clock.advance(1_000);
  assertEquals(link.sent.length, 1);
  link.nobody = false;
  clock.advance(50);
  const told = link.sent.slice(1).map(([, type]) => type).sort();
  assertEquals(told, ["load.stats.delete", "load.stats.set"]);
  second.release();
  await sync.stop();
});
