// SPDX-License-Identifier: Apache-2.0
// What a client sees of engines that misbehave. The expected results are the table in ARCHITECTURE.md: every fault,
// streaming or not, with one bad engine of four and with all bad.

import { assert, assertEquals } from "@std/assert";
import { chat, post, sleep, startTestGateway } from "../support/gateway.ts";
import { bytes, chunkedResponse, type RawAnswer, startRawServer } from "../support/raw_server.ts";
import { until } from "../support/until.ts";

const REQUESTS = 16;
const EVENT = 'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n';
const ROLE = 'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n';
const FINISH = 'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n';
const ERROR = 'data: {"error":{"message":"EngineCore died","type":"InternalServerError","code":500}}\n\n';
/** Faults that only streams can have. */
const OF_STREAMS = new Set([
  "head, then reset",
  "comments only",
  "error event first",
  "error event in mid-stream",
  "error event last",
  "clean end without an end",
]);
const SILENT_HEALTH = "health not told";
const HEAD = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
const chunk = (text: string) => `${text.length.toString(16)}\r\n${text}\r\n`;
const whole = (text: string) =>
  `HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: ${text.length}\r\n\r\n${text}`;
const half = '{"a":1}'.slice(0, 4);
const cutWhole = `HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 7\r\n\r\n${half}`;

const good = (stream: boolean): RawAnswer => ({
  writes: [stream ? chunkedResponse([EVENT, "data: [DONE]\n\n"]) : bytes(whole('{"a":1}'))],
  then: "keep",
});
const status = (code: number, headers = "") => (): RawAnswer => ({
  writes: [bytes(`HTTP/1.1 ${code} X\r\ncontent-type: application/json\r\n${headers}content-length: 2\r\n\r\n{}`)],
  then: "keep",
});

/** What a bad engine does; undefined refuses connections. */
const FAULTS: Record<string, ((stream: boolean, request: string) => RawAnswer) | undefined> = {
  "refuse": undefined,
  "reset before headers": () => ({ writes: [], then: "close" }),
  "reset in mid-stream": (stream) => ({ writes: [bytes(stream ? HEAD + chunk(EVENT) : cutWhole)], then: "close" }),
  "hang before headers": () => ({ writes: [], then: "hang" }),
  "hang after the first chunk": (stream) => ({
    writes: [bytes(stream ? HEAD + chunk(EVENT) : cutWhole)],
    then: "hang",
  }),
  "head, then reset": () => ({ writes: [bytes(HEAD)], then: "close" }),
  "comments only": () => ({
    writes: [bytes(HEAD), ...Array.from({ length: 900 }, () => bytes(chunk(": ping\n\n")))],
    pauseMs: 50,
    then: "hang",
  }),
  "error event first": () => ({ writes: [chunkedResponse([ROLE, ERROR, "data: [DONE]\n\n"])], then: "keep" }),
  "error event in mid-stream": () => ({ writes: [chunkedResponse([EVENT, ERROR, "data: [DONE]\n\n"])], then: "keep" }),
  "error event last": () => ({ writes: [chunkedResponse([EVENT, FINISH, ERROR])], then: "keep" }),
  "clean end without an end": () => ({ writes: [chunkedResponse([EVENT, EVENT])], then: "keep" }),
  "400": status(400),
  "404": status(404),
  "429": status(429, "retry-after: 7\r\n"),
  "500": status(500),
  "503": status(503),
  "garbage bytes": () => ({ writes: [bytes("SSH-2.0-OpenSSH_9.2p1\r\n\r\n\x00\x01\x02\r\n\r\n")], then: "close" }),
  "endless headers": () => ({
    writes: [
      bytes("HTTP/1.1 200 OK\r\n"),
      ...Array.from({ length: 90 }, (_, i) => bytes(`x-${i}: ${"y".repeat(990)}\r\n`)),
    ],
    then: "hang",
  }),
  // Its health is never told, and it answers requests.
  [SILENT_HEALTH]: (stream, request) => request.startsWith("GET") ? { writes: [], then: "hang" } : good(stream),
  "slow drip": (stream) => ({
    writes: [
      bytes(stream ? HEAD : "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 999\r\n\r\n"),
      ...Array.from({ length: 900 }, () => bytes(stream ? chunk(EVENT) : " ")),
    ],
    pauseMs: 50,
    then: "hang",
  }),
};

// Only the time that a fault is to use up is short, and long enough for the good engines of a busy machine.
const SHORT_MS = 4_000;
const LONG_MS = 120_000;

function timeoutsOf(fault: string): Record<string, number> {
  const hangs = fault.startsWith("hang") || fault === "comments only" ? SHORT_MS : LONG_MS;
  return {
    connect_ms: LONG_MS,
    response_header_ms: hangs,
    first_byte_ms: hangs,
    stream_idle_ms: hangs,
    request_ms: fault === "slow drip" ? SHORT_MS : LONG_MS,
  };
}

/** The end of a client's answer, in a word. */
async function outcomeOf(response: Response, stream: boolean): Promise<string> {
  const text = await response.text();
  if (response.status !== 200) return String(response.status);
  if (!stream) return text === '{"a":1}' ? "200" : `200 with ${text}`;
  assert(text.endsWith("data: [DONE]\n\n") || text.endsWith(ERROR), text.slice(-300));
  return text.includes('data: {"error"') ? "200, then an error event" : "200";
}

const tally = (values: string[]) => [...new Set(values)].sort().join(" or ");

/** @param state What the bad engines' states are to become. */
async function scenario(fault: string, stream: boolean, allBad: boolean, state: string): Promise<string[]> {
  await using stack = new AsyncDisposableStack();
  const servers = [0, 1, 2, 3].map((i) => {
    const bad = allBad || i === 0;
    const behave = bad ? FAULTS[fault] : good;
    if (behave === undefined) return { address: { hostname: "127.0.0.1", port: 1 + i } };
    return stack.use(startRawServer((request) => behave(stream, request)));
  });
  const log = await Deno.makeTempFile();
  const gateway = await startTestGateway(servers, {
    workers: 1,
    algorithm: "round_robin",
    probes: { enabled: fault === SILENT_HEALTH, health_interval_ms: 100, timeout_ms: 1_000 },
    log: { level: "error", enabled: true, path: log },
    metadata_center: { enabled: false },
    timeouts: timeoutsOf(fault),
    outliers: { eject_ms: 60_000, failure_backoff_ms: 0, backpressure_ms: 60_000, max_backpressure_ms: 60_000 },
    retry_budget: { min_per_second: 1_000 },
    limits: { prefixes: 1_024, requests_in_flight: 64 },
  });
  const read = async () => {
    const endpoints = await gateway.endpoints() as unknown as { state: string; backed_off: boolean }[];
    return endpoints.map(({ state, backed_off }) => backed_off ? "left alone" : state);
  };
  const bad = allBad ? 4 : 1;
  let states: string[] = [];
  const settled = () =>
    until(
      async () => tally((states = await read()).slice(0, bad)) === state,
      () => `${[fault, stream, allBad]}: the states of the bad ones become ${state}; all are ${states}`,
    );
  // What only probes see is seen before the requests come.
  if (fault === SILENT_HEALTH) await settled();
  const seen = await Promise.all(
    Array.from({ length: REQUESTS }, async (_, i) => {
      const answer = await post(gateway.origin, chat(`x${i}.`, { stream })).catch((error) => {
        throw new Error(`${[fault, stream, allBad]}: ${error}\n${Deno.readTextFileSync(log)}`, { cause: error });
      });
      return await outcomeOf(answer, stream);
    }),
  );
  await gateway.settled();
  // The control plane looks at what workers counted every 50 ms: a state that is not to change has the time to.
  await sleep(150);
  await settled();
  assertEquals(states.slice(bad), Array(4 - bad).fill("available"));
  await gateway[Symbol.asyncDispose]();
  const records = Deno.readTextFileSync(log).trim().split("\n").map((line) => JSON.parse(line));
  Deno.removeSync(log);
  assertEquals(records.length, REQUESTS);
  const tries = [...new Set(records.map((record) => record.tries))].sort();
  // How many engines had the whole of each request.
  const received = servers.flatMap((server) => "requests" in server ? server.requests : []);
  const executions = Array.from(
    { length: REQUESTS },
    (_, i) => received.filter((text) => text.includes(`x${i}.`)).length,
  );
  return [
    fault,
    stream ? "yes" : "no",
    allBad ? "all" : "1 of 4",
    tally(seen),
    // Refused connections are tried everywhere, but where the control plane has ejected an endpoint meanwhile.
    fault === "refuse" && allBad && tries.every((n) => n >= 1 && n <= 4) ? "1 to 4" : tries.join(" or "),
    tally(executions.map(String)),
    tally(states.slice(0, bad)),
  ];
}

Deno.test("the fault matrix is what ARCHITECTURE.md says", async () => {
  const document = Deno.readTextFileSync(new URL("../../ARCHITECTURE.md", import.meta.url));
  const table = document.split("\n").filter((line) => /^\| [^|]+\| (yes|no) +\| (1 of 4|all) +\|/.test(line))
    .map((line) => line.split("|").slice(1, -1).map((cell) => cell.trim()));
  const stateOf = new Map(table.map(([fault, stream, all, , , , state]) => [`${fault} ${stream} ${all}`, state]));
  const todo: [string, boolean, boolean][] = [];
  for (const fault of Object.keys(FAULTS)) {
    for (const stream of OF_STREAMS.has(fault) ? [true] : [true, false]) {
      for (const allBad of [false, true]) todo.push([fault, stream, allBad]);
    }
  }
  const rows: string[][] = Array(todo.length);
  let next = 0;
  const worker = async () => {
    for (let i = next++; i < todo.length; i = next++) {
      const [fault, stream, allBad] = todo[i];
      const state = stateOf.get(`${fault} ${stream ? "yes" : "no"} ${allBad ? "all" : "1 of 4"}`) ?? "in the table";
      rows[i] = await scenario(fault, stream, allBad, state);
    }
  };
  await Promise.all(Array.from({ length: 4 }, worker));
  const print = (all: string[][]) => all.map((row) => `| ${row.join(" | ")} |`).join("\n");
  assertEquals(print(table), print(rows));
});
