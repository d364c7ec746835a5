// SPDX-License-Identifier: Apache-2.0
// Every call of the documented API with every field missing, null, of another type, and beyond its bounds: status, code and
// the whole error body. Against an embedded center and one that is a process; against another one, as Go's, when
// AIGW_TEST_CENTER names its HOST:PORT.

import { assert, assertEquals } from "@std/assert";
import { parseConfig } from "../../src/config/load.ts";
import { parseExact } from "../../src/metadata/wire.ts";
import { startCenter } from "../../src/server/center_process.ts";
import { LONG_LEASE, startCenterProcess } from "../support/center.ts";

type Running = AsyncDisposable & { readonly origin: string };

const CENTERS: Record<string, (() => Promise<Running>) | undefined> = {
  async embedded() {
    const center = await startCenter(parseConfig({ metadata_center: { listen: "127.0.0.1:0" } }).metadata_center);
    return { origin: `http://127.0.0.1:${center.address!.port}`, [Symbol.asyncDispose]: () => center.stop() };
  },
  process: () => startCenterProcess(LONG_LEASE),
};
const other = Deno.env.get("AIGW_TEST_CENTER");
if (other) {
  CENTERS[`at ${other}`] = () =>
    Promise.resolve({ origin: `http://${other}`, [Symbol.asyncDispose]: () => Promise.resolve() });
} else console.log("skipped: no Go center to compare with; AIGW_TEST_CENTER=HOST:PORT names one");

interface Case {
  readonly method: string;
  readonly path: string;
  readonly headers?: Record<string, string>;
  /** Undefined for no body at all. */
  readonly body: string | undefined;
  readonly status: number;
  /** What the reason of a refusal names. */
  readonly names?: string;
}

/** Values that a text, an address, a count and a list of hashes must not have, beside missing. */
const WRONG: Readonly<Record<string, readonly string[]>> = {
  text: ["null", "5", "true", "[]", "{}", '""'],
  address: ["null", "5", '""', '"10.0.0"', '"10.0.0.256"', '"010.0.0.1"', '"::1"', '"engine"', '"10.0.0.1:80"', "[]"],
  count: ["-1", '"5"', "true", "[]", "1.5", "1e400"],
  hashes: ["null", "5", '"1"', "[]", "[-1]", "[1.5]", '["1"]', "[null]", "[18446744073709551616]"],
  topk: ["-1", "1.5", '"3"', "[]", "10001"],
};

const CALLS = [
  {
    method: "POST",
    path: "/v1/load/stats",
    fields: { cluster: '"wire"', request_id: '"r"', ip: '"10.0.0.1"', prompt_length: "5", timestamp: "1" },
    wrong: { cluster: "text", request_id: "text", ip: "address", prompt_length: "count" },
    optional: ["prompt_length", "timestamp"],
  },
  {
    method: "DELETE",
    path: "/v1/load/stats",
    fields: { request_id: '"r"' },
    wrong: { request_id: "text" },
    optional: [],
  },
  {
    method: "DELETE",
    path: "/v1/load/prompt",
    fields: { request_id: '"r"' },
    wrong: { request_id: "text" },
    optional: [],
  },
  {
    method: "POST",
    path: "/v1/cache/save",
    fields: { cluster: '"wire"', ip: '"10.0.0.1"', prompt_hash: "[1,18446744073709551615]" },
    wrong: { cluster: "text", ip: "address", prompt_hash: "hashes" },
    optional: [],
  },
  {
    method: "POST",
    path: "/v1/cache/query",
    fields: { cluster: '"wire"', prompt_hash: "[1]", topk: "3" },
    wrong: { cluster: "text", prompt_hash: "hashes", topk: "topk" },
    optional: ["topk"],
  },
] as const;

const print = (fields: Record<string, string>): string =>
  `{${Object.entries(fields).map(([name, value]) => `"${name}":${value}`).join(",")}}`;

function cases(): Case[] {
  const list: Case[] = [];
  for (const { method, path, fields, wrong, optional } of CALLS) {
    const call = { method, path };
    list.push({ ...call, body: print(fields), status: 200 });
    list.push({ ...call, body: print({ ...fields, unknown_field: "1" }), status: 200 });
    for (const body of ["", "{", "[]", "null", '"text"', "\ufeff{}x"]) list.push({ ...call, body, status: 400 });
    for (const name of Object.keys(fields)) {
      const without: Record<string, string> = { ...fields };
      delete without[name];
      const may = (optional as readonly string[]).includes(name);
      list.push({ ...call, body: print(without), status: may ? 200 : 400, names: may ? undefined : name });
    }
    for (const [name, kind] of Object.entries(wrong)) {
      for (const value of WRONG[kind]) {
        // A query for nothing finds nothing.
        const status = path === "/v1/cache/query" && value === "[]" && name === "prompt_hash" ? 200 : 400;
        list.push({ ...call, body: print({ ...fields, [name]: value }), status, names: status === 400 ? name : "" });
      }
    }
  }
  for (const type of ["load.stats.set", "load.stats.delete", "load.prompt.delete"]) {
    const event = { method: "POST", path: "/v1/replica/event", headers: { "Event-Type": type } };
    const body = '{"cluster":"wire","request_id":"replica","ip":"10.0.0.1"}';
    list.push({ ...event, body, status: 200 }, { ...event, body: "{}", status: 400 }, {
      ...event,
      body: "{",
      status: 400,
    });
  }
  const event = { method: "POST", path: "/v1/replica/event", body: "{}", status: 400, names: "Event-Type" };
  list.push(event, { ...event, headers: { "Event-Type": "load.stats.forget" } });
  for (const level of ['"DEBUG"', '"info"', '"WARN"', '"ERROR"']) {
    list.push({ method: "POST", path: "/log/level", body: `{"LevelParam":${level}}`, status: 200 });
  }
  for (const level of ['"LOUD"', "null", "3", '""']) {
    const body = `{"LevelParam":${level}}`;
    list.push({ method: "POST", path: "/log/level", body, status: 400, names: "LevelParam" });
  }
  list.push(
    { method: "GET", path: "/v1/load/stats?cluster=wire", body: undefined, status: 200 },
    { method: "GET", path: "/v1/load/stats?cluster=nobody", body: undefined, status: 200 },
    { method: "GET", path: "/v1/load/stats", body: undefined, status: 400, names: "cluster" },
    { method: "GET", path: "/v1/load/stats?cluster=", body: undefined, status: 400, names: "cluster" },
    { method: "GET", path: "/", body: undefined, status: 200 },
    { method: "GET", path: "/v1/load", body: undefined, status: 404 },
    { method: "PUT", path: "/v1/load/stats", body: "{}", status: 404 },
    { method: "GET", path: "/v1/cache/query", body: undefined, status: 404 },
  );
  return list;
}

for (const [name, start] of Object.entries(CENTERS)) {
  Deno.test(`metadata center, every call with every wrong field: ${name}`, async () => {
    await using center = await start!();
    const list = cases();
    assert(list.length >= 89, `${list.length} requests`);
    for (const { method, path, headers, body, status, names } of list) {
      const what = `${method} ${path} ${body}`;
      const response = await fetch(`${center.origin}${path}`, {
        method,
        body,
        headers: { "content-type": "application/json", "TraceId": "t1", ...headers },
      });
      const text = await response.text();
      assertEquals(response.status, status, `${what}: ${text}`);
      const { error, data, ...rest } = parseExact(text) as Record<string, unknown>;
      assertEquals(rest, { status: status === 200 ? "OK" : "ERROR", trace_id: "t1" }, what);
      assertEquals([response.headers.get("x-trace-id"), response.headers.get("content-type")], [
        "t1",
        "application/json; charset=utf-8",
      ]);
      if (status === 200) {
        assertEquals(error, null, what);
        continue;
      }
      assertEquals(data, null, what);
      const { code, message, reason, ...more } = error as Record<string, unknown>;
      assertEquals(more, {}, what);
      assertEquals([code, message], status === 400 ? [40001400, "invalid input"] : [40401404, "not found"], what);
      assert(typeof reason === "string" && reason.includes(names ?? ""), `${what} names ${names}: ${reason}`);
    }
    console.log(`${list.length} requests`);
  });
}

Deno.test("metadata center: a batch that is read late is not applied behind those that came after it", async () => {
  await using center = await CENTERS.embedded!();
  const send = async (sequence: number, request_id: string) => {
    const event = { type: "load.stats.set", body: { cluster: "c", request_id, ip: "10.0.0.1", gateway: "g" } };
    const body = JSON.stringify({ gateway: "g", cluster: "c", sequence, events: [event] });
    const response = await fetch(`${center.origin}/v1/batch`, { method: "POST", body });
    return [response.status, (await response.json()).error?.reason ?? ""];
  };
  const queued = async () => {
    const { data } = await (await fetch(`${center.origin}/v1/load/stats?cluster=c`)).json();
    return data[0].queued_req_num;
  };
  assertEquals(await send(1, "a"), [200, ""]);
  assertEquals(await send(3, "b"), [200, ""]);
  const [status, reason] = await send(2, "late");
  assertEquals(status, 400);
  assert(reason.includes("sequence"), reason);
  assertEquals(await queued(), 2);
  assertEquals(await send(4, "c"), [200, ""]);
  assertEquals(await queued(), 3);
});
