// SPDX-License-Identifier: Apache-2.0
// The metadata center's wire, held to one suite wherever it runs: inside a gateway, alone as a process.

import { assert, assertEquals, assertMatch } from "@std/assert";
import { parseConfig } from "../../src/config/load.ts";
import { parseExact } from "../../src/metadata/wire.ts";
import { startCenter } from "../../src/server/center_process.ts";
import { sleep, startTestGateway } from "../support/gateway.ts";
import { startCenterProcess } from "../support/center.ts";
import { until } from "../support/until.ts";

interface Implementation extends AsyncDisposable {
  origin: string;
}

const IMPLEMENTATIONS: Record<string, (leaseMs: number) => Promise<Implementation>> = {
  async "library"(lease_ms) {
    const center = await startCenter(
      parseConfig({ metadata_center: { listen: "127.0.0.1:0", lease_ms } }).metadata_center,
    );
    return { origin: `http://127.0.0.1:${center.address!.port}`, [Symbol.asyncDispose]: () => center.stop() };
  },
  async "embedded in a gateway"(lease_ms) {
    const gateway = await startTestGateway([], { metadata_center: { listen: "127.0.0.1:0", lease_ms } });
    return {
      origin: `http://127.0.0.1:${gateway.gateway.center!.address!.port}`,
      [Symbol.asyncDispose]: () => gateway[Symbol.asyncDispose](),
    };
  },
  async "a process of its own"(leaseMs) {
    return await startCenterProcess(`metadata_center: {lease_ms: ${leaseMs}}`);
  },
};

const MAX_HASH = "18446744073709551615";
/** No lease ends while the wire is looked at; where leases are looked at, they are short. */
const LONG_LEASE_MS = 3_600_000;
const SHORT_LEASE_MS = 1_000;
/** After this long a delete whose request was not known is tried again. */
const SECOND_CHANCE_MS = 1_000;

for (const [name, start] of Object.entries(IMPLEMENTATIONS)) {
  Deno.test(`metadata center contract: ${name}`, async (t) => {
    await using stack = new AsyncDisposableStack();
    let center = stack.use(await start(LONG_LEASE_MS));
    const call = async (method: string, path: string, body?: string, headers: Record<string, string> = {}) => {
      const response = await fetch(center.origin + path, { method, body, headers });
      const text = await response.text();
      return {
        status: response.status,
        headers: response.headers,
        text,
        json: text.startsWith("{") ? parseExact(text) as Record<string, unknown> : {},
      };
    };
    const loads = async (cluster: string) =>
      (await call("GET", `/v1/load/stats?cluster=${cluster}`)).json.data as
        | { ip: string; port?: number; queued_req_num: number; prompt_length: number; updated_time: bigint }[]
        | null;
    const figures = async (cluster: string) =>
      (await loads(cluster))?.map((one) => [one.ip, one.queued_req_num, one.prompt_length]);
    const set = (id: string, more: Record<string, unknown> = {}, cluster = "c") =>
      call(
        "POST",
        "/v1/load/stats",
        JSON.stringify({ cluster, request_id: id, ip: "10.0.0.1", prompt_length: 100, ...more }),
      );

    await t.step("envelope and trace id", async () => {
      const { status, headers, json } = await call("GET", "/v1/load/stats?cluster=unknown", undefined, {
        TraceId: "abc",
      });
      assertEquals([status, json], [200, { status: "OK", error: null, data: null, trace_id: "abc" }]);
      assertEquals([headers.get("content-type"), headers.get("traceid")], ["application/json; charset=utf-8", "abc"]);
      assertEquals(headers.get("x-trace-id"), "abc");
      assertMatch((await call("GET", "/")).json.trace_id as string, /^[0-9a-f]{32}$/);
    });
    await t.step("a request is added once, its prompt comes off once, it is removed once", async () => {
      for (let i = 0; i < 2; i++) assertEquals((await set("r1")).status, 200);
      await set("r2", { prompt_length: undefined });
      assertEquals(await figures("c"), [["10.0.0.1", 2, 100]]);
      for (let i = 0; i < 2; i++) await call("DELETE", "/v1/load/prompt", '{"request_id":"r1"}');
      assertEquals(await figures("c"), [["10.0.0.1", 2, 0]]);
      for (const id of ["r1", "r1", "r2"]) await call("DELETE", "/v1/load/stats", `{"request_id":"${id}"}`);
      assertEquals(await figures("c"), [["10.0.0.1", 0, 0]]);
      assert(typeof (await loads("c"))![0].updated_time === "bigint", "nanoseconds");
    });
    await t.step("engines on one host are told apart by port, where it is given", async () => {
      await set("p1", { port: 1 }, "ports");
      await set("p2", { port: 2, prompt_length: 7 }, "ports");
      const { data } = (await call("GET", "/v1/load/stats?cluster=ports&ports=true")).json;
      const rows = (data as { ip: string; port: number; prompt_length: number }[]).map((
        row,
      ) => [row.ip, row.port, row.prompt_length]);
      assertEquals(rows, [["10.0.0.1", 1, 100], ["10.0.0.1", 2, 7]]);
      // Who does not ask for ports knows but the host: its engines are one.
      assertEquals(await figures("ports"), [["10.0.0.1", 2, 107]]);
      assertEquals((await loads("ports"))![0].port, undefined);
    });
    await t.step(
      "engines have names and IPv6 addresses too, beside an IPv4 address for those that know nothing else",
      async () => {
        const engines = [{ host: "engine-1.fleet", port: 1, ip: "10.1.0.1" }, { host: "fd00::1", port: 1 }, {
          ip: "10.1.0.1",
          port: 2,
        }];
        for (const [i, engine] of engines.entries()) {
          await call(
            "POST",
            "/v1/load/stats",
            JSON.stringify({ cluster: "names", request_id: `n${i}`, prompt_length: 1, ...engine }),
          );
        }
        const { data } = (await call("GET", "/v1/load/stats?cluster=names&ports=true")).json;
        assertEquals((data as Record<string, unknown>[]).map(({ host, ip, port }) => [host, ip, port]), [
          ["engine-1.fleet", "10.1.0.1", 1],
          ["fd00::1", undefined, 1],
          [undefined, "10.1.0.1", 2],
        ]);
        const plain = (await call("GET", "/v1/load/stats?cluster=names")).json.data as Record<string, unknown>[];
        assertEquals(plain.map(({ ip, host, queued_req_num }) => [ip ?? host, queued_req_num]), [["10.1.0.1", 2], [
          "fd00::1",
          1,
        ]]);
        for (const [port, hashes] of [[1, [1, 2]], [2, [1, 2, 3]]] as const) {
          await call(
            "POST",
            "/v1/cache/save",
            JSON.stringify({ cluster: "names", ip: "10.1.0.1", port, prompt_hash: hashes }),
          );
        }
        const query = async (more: Record<string, unknown>) => {
          const body = { cluster: "names", prompt_hash: [1, 2, 3], topk: 9, ...more };
          const { json } = await call("POST", "/v1/cache/query", JSON.stringify(body));
          return (json.data as { locations: unknown[] }).locations;
        };
        assertEquals(await query({}), [{ ip: "10.1.0.1", length: 3 }]);
        assertEquals((await query({ ports: true })).length, 2);
        for (const topk of [undefined, 0]) assertEquals((await query({ ports: true, topk })).length, 2);
      },
    );
    await t.step("a bad event of a batch costs itself", async () => {
      const good = (id: string) => ({
        type: "load.stats.set",
        body: { cluster: "batch", request_id: id, ip: "10.0.0.1", prompt_length: 1 },
      });
      const bad = [{ type: "dance" }, null, {
        type: "load.stats.set",
        body: { cluster: "batch", request_id: "x", ip: "010.0.0.1" },
      }];
      for (const headers of [undefined, { "Event-Type": "aigw.batch" }]) {
        const path = headers ? "/v1/replica/event" : "/v1/batch";
        const events = [good(`${path} 1`), ...bad, good(`${path} 2`)];
        const { status, json } = await call("POST", path, JSON.stringify({ events }), headers);
        const { rejected } = json.data as { rejected: { event: number; reason: string }[] };
        assertEquals([status, rejected.map(({ event }) => event)], [200, [1, 2, 3]]);
      }
      assertEquals(await figures("batch"), [["10.0.0.1", 4, 4]]);
    });
    await t.step("a delete that overtakes its add is made good a second later", async () => {
      for (let attempt = 0, inTime = false; !inTime; attempt++) {
        const began = performance.now();
        const cluster = `late${attempt}`;
        assertEquals((await call("DELETE", "/v1/load/stats", `{"request_id":"${cluster}"}`)).status, 200);
        await set(cluster, {}, cluster);
        const early = await figures(cluster);
        // On a busy machine the add may have come after the second attempt, which proves nothing.
        inTime = performance.now() - began < SECOND_CHANCE_MS;
        if (!inTime) continue;
        assertEquals(early, [["10.0.0.1", 1, 100]]);
        await until(async () => `${await figures(cluster)}` === "10.0.0.1,0,0", "the request is taken off");
      }
    });
    await t.step("prefixes: 64-bit hashes exact both ways, longest first", async () => {
      const save = (ip: string, hashes: string) =>
        call("POST", "/v1/cache/save", `{"cluster":"k","ip":"${ip}","prompt_hash":[${hashes}]}`);
      await save("10.0.0.1", `${MAX_HASH},2`);
      await save("10.0.0.2", `${MAX_HASH},2,9007199254740993`);
      const query = async (hashes: string, topk = 10) =>
        ((await call("POST", "/v1/cache/query", `{"cluster":"k","prompt_hash":[${hashes}],"topk":${topk}}`)).json
          .data as { locations: unknown[] }).locations;
      assertEquals(await query(`${MAX_HASH},2,9007199254740993`), [{ ip: "10.0.0.2", length: 3 }, {
        ip: "10.0.0.1",
        length: 2,
      }]);
      assertEquals(await query(`${MAX_HASH},2,9007199254740992`), [{ ip: "10.0.0.1", length: 2 }, {
        ip: "10.0.0.2",
        length: 2,
      }]);
      assertEquals(await query(`${MAX_HASH}`, 1), [{ ip: "10.0.0.1", length: 1 }]);
      assertEquals(await query("18446744073709551614"), []);
    });
    await t.step("wrong input: 400 with the documented body", async () => {
      const good = { cluster: "c", request_id: "x", ip: "10.0.0.1", prompt_length: 1 };
      const wrong: [string, string, string][] = [
        ...(["cluster", "request_id", "ip"] as const).map((field): [string, string, string] => {
          const { [field]: _, ...rest } = good;
          return ["POST", "/v1/load/stats", JSON.stringify(rest)];
        }),
        ["POST", "/v1/load/stats", JSON.stringify({ ...good, cluster: 3 })],
        ["POST", "/v1/load/stats", JSON.stringify({ ...good, ip: "::1" })],
        ["POST", "/v1/load/stats", JSON.stringify({ ...good, ip: "10.0.0.256" })],
        ["POST", "/v1/load/stats", JSON.stringify({ ...good, ip: "010.0.0.1" })],
        ["POST", "/v1/load/stats", JSON.stringify({ ...good, ip: undefined, host: "no name" })],
        ["POST", "/v1/load/stats", JSON.stringify({ ...good, prompt_length: -1 })],
        ["POST", "/v1/load/stats", JSON.stringify({ ...good, prompt_length: "many" })],
        ["POST", "/v1/load/stats", "{"],
        ["POST", "/v1/load/stats", ""],
        ["POST", "/v1/load/stats", "[]"],
        ["DELETE", "/v1/load/stats", "{}"],
        ["DELETE", "/v1/load/prompt", '{"request_id":""}'],
        ["POST", "/v1/cache/save", '{"cluster":"c","ip":"10.0.0.1","prompt_hash":[-1]}'],
        ["POST", "/v1/cache/save", '{"cluster":"c","ip":"10.0.0.1","prompt_hash":[18446744073709551616]}'],
        ["POST", "/v1/cache/save", '{"cluster":"c","ip":"10.0.0.1","prompt_hash":[1.5]}'],
        ["POST", "/v1/cache/query", '{"cluster":"c","prompt_hash":[1],"topk":-1}'],
        ["POST", "/v1/batch", '{"events":{}}'],
        ["POST", "/log/level", '{"LevelParam":"LOUD"}'],
        ["POST", "/v1/replica/event", "{}"],
        ["POST", "/log/level", "{}"],
      ];
      for (const [method, path, body] of wrong) {
        const { status, json } = await call(method, path, body);
        const error = json.error as { code: number; message: string; reason: string };
        assertEquals([status, json.status, json.data, error.code], [400, "ERROR", null, 40001400], `${path} ${body}`);
        assert(error.message.length > 0 && error.reason.length > 0);
      }
      assertEquals((await call("GET", "/v1/load/stats")).status, 400);
      assertEquals((await call("GET", "/nope")).status, 404);
    });
    await t.step("replica events are applied", async () => {
      const event = (type: string, body: unknown) =>
        call("POST", "/v1/replica/event", JSON.stringify(body), { "Event-Type": type });
      await event("load.stats.set", {
        cluster: "rep",
        request_id: "e1",
        ip: "10.0.0.3",
        prompt_length: 5,
        timestamp: Date.now() * 1e6,
      });
      assertEquals(await figures("rep"), [["10.0.0.3", 1, 5]]);
      await event("load.prompt.delete", { request_id: "e1" });
      await event("load.stats.delete", { request_id: "e1" });
      assertEquals(await figures("rep"), [["10.0.0.3", 0, 0]]);
    });
    await t.step("watch: a snapshot, then every change, without the watcher's own; a gap is made good", async () => {
      await set("w0", {}, "w");
      const watch = async (since?: string) => {
        const response = await fetch(`${center.origin}/v1/watch?cluster=w&gateway=me`, {
          headers: since ? { "last-event-id": since } : {},
        });
        const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
        let text = "";
        return {
          async until(part: string) {
            while (!text.includes(part)) {
              const { value, done } = await reader.read();
              if (done) throw new Error(`ended: ${text}`);
              text += value;
            }
            return text;
          },
          close: () => reader.cancel(),
        };
      };
      const first = await watch();
      assertMatch(await first.until("event: snapshot\n"), /"ip":"10\.0\.0\.1","queued_req_num":1,"prompt_length":100/);
      await set("w1", { ip: "10.0.0.2", gateway: "other" }, "w");
      await first.until('"ip":"10.0.0.2","queued_req_num":1');
      await set("w2", { ip: "10.0.0.2", gateway: "me" }, "w");
      await set("w3", { ip: "10.0.0.2", prompt_length: 11 }, "w");
      assertMatch(await first.until('"prompt_length":111'), /"queued_req_num":2,"prompt_length":111/);
      await call(
        "POST",
        "/v1/cache/save",
        `{"cluster":"w","ip":"10.0.0.2","prompt_hash":[${MAX_HASH}],"gateway":"other"}`,
      );
      const text = await first.until(`"prompt_hash":[${MAX_HASH}]`);
      const id = [...text.matchAll(/^id: (\d+)$/gm)].at(-1)![1];
      await first.close();
      await call("POST", "/v1/cache/save", '{"cluster":"w","ip":"10.0.0.2","prompt_hash":[42],"gateway":"other"}');
      const second = await watch(id);
      const replayed = await second.until('"prompt_hash":[42]');
      assert(!replayed.includes(MAX_HASH), "what was seen is not told again");
      await second.close();
    });
    await t.step("metrics under their documented names", async () => {
      await call("GET", "/v1/load/stats?cluster=c&domain=d.example");
      const { text } = await call("GET", "/metrics");
      assert(!text.includes('url="/metrics"'));
      for (
        const metric of [
          "model_engine_count{",
          "queued_num{",
          "prompt_length{",
          'http_request_status_code_total{url="/v1/load/stats",method="POST",status_code="200"}',
          'http_request_status_code_total{url="/v1/load/stats",method="POST",status_code="400"}',
          'http_request_duration_us_bucket{method="POST",url="/v1/load/stats",le="2000"}',
          'replication_latency_ms_bucket{le="128"}',
          'domain_requests_total{domain="d.example"} 1',
          "metacenter_node_alive 1",
          "replication_latency_ms_count",
          "app_version_info{",
        ]
      ) {
        assert(text.includes(metric), metric);
      }
    });
    await t.step("a lease that is not renewed takes its load along; without one it stays", async () => {
      center = stack.use(await start(SHORT_LEASE_MS));
      for (let attempt = 0, kept = false; !kept; attempt++) {
        const gateway = `g${attempt}`;
        const cluster = `lease${attempt}`;
        let heard = performance.now();
        await set(`l${attempt}`, { gateway }, cluster);
        await set(`m${attempt}`, {}, cluster);
        kept = true;
        for (let i = 0; i < 8 && kept; i++) {
          await sleep(SHORT_LEASE_MS / 5);
          const renewing = performance.now();
          await call("POST", "/v1/lease", `{"gateway":"${gateway}"}`);
          // On a busy machine a renewal may have come too late, which proves nothing.
          kept = performance.now() - heard < SHORT_LEASE_MS;
          heard = renewing;
        }
        const both = await figures(cluster);
        kept &&= performance.now() - heard < SHORT_LEASE_MS;
        if (kept) assertEquals(both, [["10.0.0.1", 2, 200]]);
        await until(async () => `${await figures(cluster)}` === "10.0.0.1,1,100", "what had a lease is taken off");
      }
    });
  });
}
