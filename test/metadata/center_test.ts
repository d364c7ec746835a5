// SPDX-License-Identifier: Apache-2.0
import { assert, assertEquals, assertRejects, assertStringIncludes, assertThrows } from "@std/assert";
import { ManualClock } from "../../src/base/clock.ts";
import { environmentNotes, parseDuration } from "../../src/config/metadata_center.ts";
import { loadConfig } from "../../src/config/load.ts";
import { Breaker } from "../../src/metadata/breaker.ts";
import { Center, CenterFull, DEFAULT_CENTER_LIMITS } from "../../src/metadata/center.ts";
import { fnv1a } from "../../src/base/fnv1a.ts";
import { HostList } from "../../src/metadata/hosts.ts";
import { type CenterRequest, PlainLedger } from "../../src/metadata/plain_ledger.ts";
import { Replication } from "../../src/metadata/replication.ts";
import { CenterServer } from "../../src/metadata/server.ts";
import { parseExact, printExact } from "../../src/metadata/wire.ts";
import { Random, seed } from "../support/seed.ts";
import { until } from "../support/until.ts";

Deno.test("Center agrees with a plain count over random lives, out of order, with leases and garbage", () => {
  const random = new Random(seed);
  for (let round = 0; round < 10; round++) {
    const clock = new ManualClock(1_000_000);
    const center = new Center(clock, { ...DEFAULT_CENTER_LIMITS, expiryMs: 60_000 });
    const open = new Map<string, { host: string; prompt: number; counted: boolean; gateway?: string; at: number }>();
    const heard = new Map<string, number>();
    for (let step = 0; step < 3_000; step++) {
      clock.advance(random.below(60));
      const now = clock.wall();
      const gateway = random.pick([undefined, "a", "b"]);
      if (gateway !== undefined && (random.chance(0.5) || gateway === "a")) {
        center.renew(gateway);
        heard.set(gateway, now);
      }
      const action = random.below(5);
      if (action < 2) {
        const id = `r${step}`;
        const host = random.pick(["10.0.0.1", "10.0.0.2"]);
        const prompt = random.below(1_000);
        center.add({ cluster: "c", requestId: id, host, promptLength: prompt, gateway });
        if (gateway !== undefined && !heard.has(gateway)) heard.set(gateway, now);
        open.set(id, { host, prompt, counted: true, gateway, at: now });
      } else if (open.size > 0) {
        const [id, request] = random.pick([...open]);
        if (action === 2) {
          center.deletePrompt(id);
          request.counted = false;
        } else if (action === 3) {
          center.delete(id);
          open.delete(id);
        }
      }
      if (random.chance(0.1)) {
        center.expireLeases();
        for (const [gateway, at] of heard) {
          if (at + center.limits.leaseMs > now) continue;
          heard.delete(gateway);
          for (const [id, request] of open) if (request.gateway === gateway) open.delete(id);
        }
      }
      if (random.chance(0.05)) {
        center.collectGarbage();
        for (const [id, request] of open) {
          if (request.at < now - 60_000 && (request.gateway === undefined || !heard.has(request.gateway))) {
            open.delete(id);
          }
        }
      }
      for (const without of [undefined, "a", "b"]) {
        for (const host of ["10.0.0.1", "10.0.0.2"]) {
          const mine = [...open.values()].filter((one) =>
            one.host === host && (without === undefined || one.gateway !== without)
          );
          const { queued, promptLength } = center.loadOf("c", { host }, without);
          assertEquals([queued, promptLength], [
            mine.length,
            mine.reduce((sum, one) => sum + (one.counted ? one.prompt : 0), 0),
          ]);
        }
      }
    }
    center.close();
  }
});

Deno.test("Center: reset forgets one gateway's requests of one cluster", () => {
  const center = new Center(new ManualClock());
  for (const [id, cluster, gateway] of [["1", "c", "a"], ["2", "d", "a"], ["3", "c", "b"]]) {
    center.add({ cluster, requestId: id, host: "10.0.0.1", promptLength: 1, gateway });
  }
  center.reset("a", "c");
  assertEquals([center.loadOf("c", { host: "10.0.0.1" }).queued, center.loadOf("d", { host: "10.0.0.1" }).queued], [
    1,
    1,
  ]);
  center.add({ cluster: "c", requestId: "1", host: "10.0.0.1", promptLength: 1, gateway: "a" });
  assertEquals(center.loadOf("c", { host: "10.0.0.1" }).queued, 2);
  center.close();
});

Deno.test("Center: what a lease took along and nobody told anew is reported once, a moment later", () => {
  const clock = new ManualClock(1_000_000);
  const center = new Center(clock, { ...DEFAULT_CENTER_LIMITS, leaseMs: 3_000, secondChanceMs: 1_000 });
  const add = (requestId: string, gateway?: string) =>
    center.add({ requestId, cluster: "c", host: "10.0.0.1", promptLength: 1, gateway });
  for (const id of ["a", "b", "c"]) add(id, "g");
  add("d");
  center.reset("g");
  add("b", "g");
  assertEquals(center.expireLeases(), []);
  clock.advance(1_000);
  assertEquals(center.expireLeases(), ["a", "c"]);
  clock.advance(2_000);
  assertEquals(center.expireLeases(), []);
  clock.advance(1_000);
  assertEquals([center.expireLeases(), center.requests], [["b"], 1]);
});

Deno.test("Replication: peers that know no leases are told what one took along, those of our kind are not", async () => {
  for (const knowsBatches of [true, false]) {
    const told: string[] = [];
    const fetch = async (_address: string, _target: string, { headers, body }: RequestInit) => {
      const type = new Headers(headers).get("event-type")!;
      const { events } = JSON.parse(String(await new Response(body).text()));
      if (type !== "aigw.batch") told.push(type);
      else if (!knowsBatches) return new Response(null, { status: 400 });
      else told.push(...events.map((event: { type: string }) => event.type));
      return new Response(null);
    };
    const limits = { coalesceMs: 0, timeoutMs: 60_000, attempts: 1, queue: 10 };
    const replication = new Replication({ peers: () => ["peer:1"], ...limits }, { fetch, close() {} });
    replication.publish({ type: "load.stats.set", body: { request_id: "a", ip: "10.0.0.1" } });
    replication.lost(["a"]);
    replication.publish({ type: "load.prompt.delete", body: { request_id: "b" } });
    const expected = knowsBatches
      ? ["load.stats.set", "load.prompt.delete"]
      : ["load.stats.set", "load.stats.delete", "load.prompt.delete"];
    await until(() => told.length === expected.length, "the peer is told");
    assertEquals(told, expected);
    replication.stop();
  }
});

Deno.test("Center is bounded in requests and prefixes", () => {
  const center = new Center(new ManualClock(), { ...DEFAULT_CENTER_LIMITS, requests: 2, prefixes: 3 });
  const add = (requestId: string) => center.add({ cluster: "c", requestId, host: "10.0.0.1", promptLength: 1 });
  add("1");
  add("2");
  assertThrows(() => add("3"), CenterFull, "2 requests");
  add("2"); // known already
  for (let i = 0n; i < 10n; i++) center.saveCache({ cluster: "c", host: "10.0.0.1", hashes: [i] });
  assertEquals([6n, 7n, 8n, 9n].map((hash) => center.queryCache("c", [hash], 10).length), [0, 1, 1, 1]);
});

Deno.test("Center: what strangers tell is bounded in clusters, engines and gateways, and is forgotten again", () => {
  const clock = new ManualClock(1_000_000);
  const limits = { ...DEFAULT_CENTER_LIMITS, clusters: 2, engines: 3, gateways: 2 };
  const center = new Center(clock, limits);
  const server = new CenterServer(center, { version: "test" });
  let id = 0;
  const add = (cluster: string, host: string, gateway?: string) =>
    center.add({ cluster, requestId: String(id++), host, promptLength: 1, gateway });
  add("a", "10.0.0.1", "g");
  add("b", "10.0.0.1", "h");
  assertThrows(() => add("c", "10.0.0.1"), CenterFull, "2 clusters");
  assertThrows(() => add("a", "10.0.0.2", "i"), CenterFull, "2 gateways");
  add("a", "10.0.0.2");
  assertThrows(() => add("b", "10.0.0.3"), CenterFull, "3 engines");
  const saves = { type: "cache.save" as const, body: { cluster: "c", ip: "10.0.0.1", prompt_hash: [1] } };
  assertThrows(() => server.apply(saves), CenterFull, "2 clusters");
  assertEquals([center.requests, center.gateways, center.clusterNames()], [3, 2, ["a", "b"]]);
  server.apply({ ...saves, body: { ...saves.body, cluster: "b" } });
  // What goes is a change too: its engine is forgotten when it has been idle for as long again.
  for (let i = 0; i < 2; i++) {
    clock.advance(DEFAULT_CENTER_LIMITS.expiryMs + 1);
    center.expireLeases();
    server.collectGarbage();
  }
  assertEquals([center.requests, center.gateways, center.clusterNames()], [0, 0, ["b"]], "it still has a prefix");
  add("c", "10.0.0.1", "i");
  add("c", "10.0.0.2");
  add("c", "10.0.0.3");
  server.close();
});

Deno.test("Center: a busy cluster takes no prefix from one that has less than it", () => {
  const center = new Center(new ManualClock(), { ...DEFAULT_CENTER_LIMITS, prefixes: 10 });
  const save = (cluster: string, ...hashes: bigint[]) => center.saveCache({ cluster, host: "10.0.0.1", hashes });
  const holds = (cluster: string, hash: bigint) => center.queryCache(cluster, [hash], 1).length;
  for (let i = 0n; i < 10n; i++) save("big", i);
  save("small", 100n, 101n);
  assertEquals([holds("small", 100n), holds("small", 101n)], [1, 1]);
  assertEquals([0n, 1n, 2n, 9n].map((hash) => holds("big", hash)), [0, 0, 1, 1], "its own oldest go");
  for (let i = 10n; i < 200n; i++) save("big", i);
  assertEquals([holds("small", 100n), holds("small", 101n), holds("big", 199n)], [1, 1, 1]);
  for (let i = 0n; i < 50n; i++) save("other", 1_000n + i);
  assertEquals([holds("small", 100n), holds("other", 1_049n)], [1, 1], "none has more than half of what others have");
});

Deno.test("wire: integers beyond 2^53 are exact both ways, everything else is as JSON has it", () => {
  const random = new Random(seed);
  for (let i = 0; i < 500; i++) {
    const hash = new BigUint64Array(random.bytes(8).buffer)[0];
    const text = `{"a":[${hash},1.5,-3,"${hash}"],"b":null}`;
    const value = parseExact(text) as { a: (number | bigint | string)[] };
    assertEquals(BigInt(value.a[0] as number), hash);
    assertEquals(value.a.slice(1), [1.5, -3, String(hash)]);
    assertEquals(printExact(value), text);
  }
});

Deno.test("Breaker: opens after so many failures in a row, lets a few through, closes when they succeed", () => {
  const clock = new ManualClock();
  const breaker = new Breaker(clock, { maxFailures: 3, cooldownMs: 100, halfOpenRequests: 2 });
  for (const outcome of ["failed", "failed", "succeeded", "failed", "failed"] as const) breaker[outcome]();
  assertEquals([breaker.state, breaker.allow()], ["closed", true]);
  breaker.failed();
  assertEquals([breaker.state, breaker.allow()], ["open", false]);
  clock.advance(100);
  // Asking is no try: only calls that are made count.
  for (let i = 0; i < 5; i++) assertEquals([breaker.state, breaker.allow()], ["half-open", true]);
  for (const allowed of [true, false]) {
    breaker.began();
    assertEquals(breaker.allow(), allowed);
  }
  clock.advance(100);
  assertEquals(breaker.allow(), true, "tries of which nobody has heard");
  breaker.failed();
  assertEquals(breaker.state, "open");
  clock.advance(100);
  for (let i = 0; i < 2; i++) {
    assert(breaker.allow());
    breaker.began();
    breaker.succeeded();
  }
  assertEquals(breaker.state, "closed");
});

Deno.test("HostList: the hash of the cluster chooses, then the next; a newcomer is asked last until it is warm", async () => {
  assertEquals(["", "a", "foobar"].map(fnv1a), [0x811c9dc5, 0xe40c292c, 0xbf9cf968]);
  const clock = new ManualClock();
  let ips = ["10.0.0.2", "10.0.0.1"];
  const hosts = new HostList(clock, {
    host: "center.local",
    port: 80,
    lookupIntervalMs: 3_600_000,
    coldStartMs: 1_000,
    breaker: { maxFailures: 1, cooldownMs: 1, halfOpenRequests: 1 },
    resolve: () => Promise.resolve(ips),
  });
  await hosts.start();
  const order = () => hosts.candidates("c").map(({ address }) => address);
  const sorted = ["10.0.0.1:80", "10.0.0.2:80"];
  const first = fnv1a("c") % 2;
  assertEquals(order(), [sorted[first], sorted[1 - first]]);
  hosts.stop();
  ips = ["10.0.0.0", ...ips];
  await hosts.start();
  assertEquals(order().at(-1), "10.0.0.0:80");
  clock.advance(1_000);
  const all = ["10.0.0.0:80", ...sorted];
  assertEquals(order(), [0, 1, 2].map((i) => all[(fnv1a("c") + i) % 3]));
  hosts.stop();
});

Deno.test("the remote center's environment variables, with Go's durations, win over the file", async () => {
  const durations: Record<string, number | undefined> = {
    "100ms": 100,
    "5s": 5_000,
    "10m": 600_000,
    "1h30m": 5_400_000,
    "1.5s": 1_500,
    ".5s": 500,
    "5.s": 5_000,
    "100us": 0.1,
    "25h": 90_000_000,
    "0": 0,
    "5": undefined,
    "-5s": undefined,
    "5 s": undefined,
    s: undefined,
    "": undefined,
  };
  for (const [text, ms] of Object.entries(durations)) assertEquals(parseDuration(text), ms, text);
  const set: Record<string, string> = {
    AIGW_META_DATA_CENTER_HOST: "10.1.1.1",
    AIGW_META_DATA_CENTER_PORT: "8081",
    AIGW_META_DATA_CENTER_CACHE_ENABLE: "false",
    AIGW_META_COLD_START_DELAY: "1m",
    AIGW_METADATA_CENTER_ENDPOINT_COOLDOWN_SECONDS: "7",
  };
  const { metadata_center: center } = await loadConfig(new URL("../../config/local.yaml", import.meta.url).pathname, {
    get: (name) => set[name],
  });
  assertEquals(
    [center.host, center.port, center.cache_enable, center.cold_start_delay_ms, center.endpoint_cooldown_ms],
    ["10.1.1.1", 8081, false, 60_000, 7_000],
  );
});

Deno.test("the variables take what Go's take: whole milliseconds, all spellings of a flag; others are named", async () => {
  const load = (set: Record<string, string>) =>
    loadConfig(new URL("../../config/local.yaml", import.meta.url).pathname, { get: (name) => set[name] });
  const time = async (text: string) =>
    (await load({ AIGW_METADATA_CENTER_UPDATE_STATS_TIMEOUT: text })).metadata_center.update_stats_timeout_ms;
  assertEquals([await time("200"), await time("25h"), await time("100us")], [200, 90_000_000, 1]);
  const { metadata_center: expiring } = await load({
    METADATA_CENTER_LOAD_GC_INTERVAL: "5s",
    METADATA_CENTER_LOAD_REQ_EXPIRE: "1m",
  });
  assertEquals([expiring.gc_interval_ms, expiring.expiry_ms], [5_000, 60_000]);
  const flag = async (text: string) => (await load({ AIGW_META_DATA_CENTER_ENABLE: text })).metadata_center.enabled;
  for (const text of ["1", "t", "T", "TRUE", "true", "True"]) assertEquals(await flag(text), true);
  for (const text of ["0", "f", "F", "FALSE", "false", "False"]) assertEquals(await flag(text), false);
  for (const text of ["yes", "tRue", "2"]) await assertRejects(() => flag(text), Error, "AIGW_META_DATA_CENTER_ENABLE");
  const notes = environmentNotes({ AIGW_METADATA_CENTER_WORKER_COUNT: "4", REPLICA_COUNT: "3", PATH: "/bin" });
  assertEquals(notes.length, 2);
  assertStringIncludes(notes[0], "AIGW_METADATA_CENTER_WORKER_COUNT has no effect here");
});

Deno.test("Center: who told of a request without a lease takes it under its lease when it tells again", () => {
  const clock = new ManualClock(1_000_000);
  const center = new Center(clock);
  const request = { cluster: "c", requestId: "r", host: "10.0.0.1", promptLength: 100 };
  const figures = (without?: string) =>
    center.loads("c", without)!.map(({ queued, promptLength }) => [queued, promptLength]);
  center.add(request);
  center.deletePrompt("r");
  center.add({ ...request, gateway: "a" });
  assertEquals([figures(), figures("a")], [[[1, 0]], [[0, 0]]]);
  center.add({ ...request, gateway: "b" });
  assertEquals([figures(), figures("a"), figures("b")], [[[1, 0]], [[0, 0]], [[1, 0]]], "it is nobody else's now");
  clock.advance(DEFAULT_CENTER_LIMITS.leaseMs + 1);
  center.expireLeases();
  assertEquals(figures(), [[0, 0]]);
  center.close();
});

Deno.test("PlainLedger: nothing that it tells is under a lease, which nobody would renew", async () => {
  const asked: CenterRequest[] = [];
  const ledger = new PlainLedger();
  const body = { cluster: "c", request_id: "r", ip: "10.0.0.1", port: 1, prompt_length: 5, gateway: "a" };
  assert(
    await ledger.tell([{ type: "load.stats.set", body }], (request) => {
      asked.push(request);
      return Promise.resolve({ status: 200 });
    }),
  );
  const { gateway: _, ...plain } = body;
  assertEquals(asked, [{ method: "POST", path: "/v1/load/stats", body: plain }]);
});

Deno.test("PlainLedger: whatever call finds no answer, the center that may have heard it is told of every end", async () => {
  const random = new Random(seed);
  for (let round = 0; round < 500; round++) {
    const ledger = new PlainLedger();
    const held = new Set<string>();
    const open = new Set<string>();
    let reachable = 0.7;
    const ask = ({ method, body }: CenterRequest) => {
      const id = (body as { request_id: string }).request_id;
      const [arrives, answers] = [random.chance(reachable), random.chance(reachable)];
      if (arrives && method === "POST") held.add(id);
      else if (arrives) held.delete(id);
      return Promise.resolve(arrives && answers ? { status: 200 } : undefined);
    };
    const set = (request_id: string) => ({
      type: "load.stats.set" as const,
      body: { request_id, ip: "10.0.0.1", prompt_length: 1 },
    });
    const anew = () => [{ type: "lease.reset" as const, body: {} }, ...[...open].map(set)];
    let repair = false;
    for (let i = 0; i < 30; i++) {
      const id = `r${random.below(8)}`;
      const event = open.has(id) ? { type: "load.stats.delete" as const, body: { request_id: id } } : set(id);
      if (!open.delete(id)) open.add(id);
      repair = !await ledger.tell(repair ? anew() : [event], ask);
    }
    reachable = 1;
    if (repair) await ledger.tell(anew(), ask);
    assertEquals(held, open, `round ${round}`);
  }
});
