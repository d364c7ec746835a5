// SPDX-License-Identifier: Apache-2.0
// `deno task soak:chaos`: under load, engines are killed and come back, workers are replaced and killed, the metadata center
// of two gateways is killed. Every answer has to be whole, or say that it is not; afterwards every counter is 0.

import { assertEquals } from "@std/assert";
import { helpOf } from "../support/task_help.ts";
import { startCenterProcess } from "../support/center.ts";
import { CHANGE, chat, post, sleep, startEngineProcess, startTestGatewayProcess } from "../support/gateway.ts";
import { Random, seed } from "../support/seed.ts";
import { freePort } from "../support/machine.ts";

helpOf(`Usage: deno task soak:chaos [SCALE]

20 engine kills, 14 worker restarts and 7 center kills under load in some two minutes; SCALE times as many of each.`);

const SCALE = Number(Deno.args[0] ?? 1);
const ENGINES = 4;
const CLIENTS = 24;
/** Between two deaths, on average. */
const PAUSE_MS = 1_500;
const WORKERS = 2;

type Death = "engine" | "worker replaced" | "worker killed" | "center";
const DEATHS: readonly [Death, number][] = [["engine", 20], ["worker replaced", 7], ["worker killed", 7], [
  "center",
  7,
]];

const random = new Random(seed);
const ports = Array.from({ length: ENGINES }, freePort);
const startEngine = (port: number) =>
  startEngineProcess(["--listen", `127.0.0.1:${port}`, "--speed", "10", "--model", "m"]);
const engines = await Promise.all(ports.map(startEngine));
let center = await startCenterProcess();
const metadata_center = { host: "127.0.0.1", port: center.port, endpoint_cooldown_ms: 500 };
const endpoints = ports.map((port) => ({ address: { hostname: "127.0.0.1", port } }));
const gateways = await Promise.all(
  [0, 1].map(() => startTestGatewayProcess(endpoints, { metadata_center, workers: WORKERS })),
);

/** What came of requests; those of which a worker's own death took the connection apart. */
const ends = new Map<string, number>();
const count = (end: string) => ends.set(end, (ends.get(end) ?? 0) + 1);
/** When a worker was killed last. */
let workerKilledAt = -Infinity;
const wrong: string[] = [];

/** How an answer ended; throws Error for one that is neither whole nor says that it is not. */
function endOf(stream: boolean, status: number, text: string): string {
  if (status !== 200) {
    const code = (JSON.parse(text) as { error: { code?: unknown } }).error.code;
    return `${status} ${code}`;
  }
  if (!stream) {
    const { choices } = JSON.parse(text) as { choices: { finish_reason: string }[] };
    if (!choices[0].finish_reason) throw new Error("an answer without its end");
    return "whole";
  }
  if (!text.endsWith("data: [DONE]\n\n")) throw new Error(`a stream without its end: ${text.slice(-80)}`);
  if (text.includes('"error"')) return "error event";
  if (!text.includes('"finish_reason":"')) throw new Error("a stream without a finish_reason");
  return "whole";
}

let running = true;
async function client(): Promise<void> {
  while (running) {
    const stream = random.chance(0.6);
    const began = performance.now();
    const body = chat(`${random.below(300)} ${"word ".repeat(random.below(400))}`, {
      stream,
      max_tokens: 5 + random.below(60),
    });
    try {
      const response = await post(random.pick(gateways).origin, body);
      const text = await response.text();
      try {
        count(endOf(stream, response.status, text));
      } catch (error) {
        wrong.push(`${response.status}, ${text.length} bytes: ${(error as Error).message}`);
      }
    } catch {
      // A killed worker takes its connections along; nobody else may.
      if (workerKilledAt >= began - 100) count("broke off with its worker");
      else wrong.push(`a connection broke after ${Math.round(performance.now() - began)} ms`);
    }
  }
}

async function happen(death: Death): Promise<void> {
  const worker = 1 + random.below(WORKERS);
  const { admin } = random.pick(gateways);
  if (death === "engine") {
    const i = random.below(ENGINES);
    await engines[i].kill();
    await sleep(200 + random.below(1_500));
    engines[i] = await startEngine(ports[i]);
  } else if (death === "center") {
    const { port } = center;
    await center.kill();
    await sleep(random.below(1_000));
    center = await startCenterProcess("", port);
  } else {
    const now = death === "worker killed";
    if (now) workerKilledAt = performance.now() + 1_000;
    const response = await fetch(`${admin}/workers/${worker}/restart${now ? "?now" : ""}`, CHANGE);
    await response.body?.cancel();
    if (now) workerKilledAt = performance.now();
    if (!response.ok) count("a worker was not to be restarted then");
  }
}

/** What must not grow in a long run: of both gateways. */
interface Sample {
  readonly minutes: number;
  readonly memoryMib: number;
  readonly files: number;
  readonly threads: number;
  /** Rows of names and endpoints: prefixes are as many as there is room for, requests as many as there are. */
  readonly rows: number;
  /** What the kernel's lists hold that is under way: requests and responses. */
  readonly requests: number;
}
const samples: Sample[] = [];
const began = performance.now();

async function sample(): Promise<void> {
  const lines = /^aigw_table_rows\{table="(\w+)".*? (\d+)$/gm;
  const one = { memoryMib: 0, files: 0, threads: 0, rows: 0, requests: 0 };
  for (const { admin, pid } of gateways) {
    const text = await (await fetch(`${admin}/metrics`)).text();
    const metric = (name: string) => Number(new RegExp(`^${name} (\\S+)$`, "m").exec(text)?.[1] ?? 0);
    one.memoryMib += metric("process_resident_memory_bytes") / 2 ** 20;
    one.files += [...Deno.readDirSync(`/proc/${pid}/fd`)].length;
    one.threads += [...Deno.readDirSync(`/proc/${pid}/task`)].length;
    for (const [, table, count] of text.matchAll(lines)) {
      if (NAMES.has(table)) one.rows += Number(count);
      else if (table === "requests") one.requests += Number(count);
    }
  }
  samples.push({ minutes: (performance.now() - began) / 60_000, ...one });
}

const NAMES = new Set(["clusters", "models", "tenants", "endpoints"]);

/** Growth an hour, by the least squares over the later half of the samples. */
function slopeOf(field: Exclude<keyof Sample, "minutes">): string {
  const half = samples.slice(Math.floor(samples.length / 2));
  const mean = (of: (one: Sample) => number) => half.reduce((sum, one) => sum + of(one), 0) / half.length;
  const [x, y] = [mean(({ minutes }) => minutes), mean((one) => one[field])];
  const slope = mean((one) => (one.minutes - x) * (one[field] - y)) / mean((one) => (one.minutes - x) ** 2);
  return `${y.toFixed(0)} ${slope >= 0 ? "+" : ""}${(slope * 60).toFixed(1)} an hour`;
}

const clients = Array.from({ length: CLIENTS }, client);
const sampling = setInterval(sample, 5_000);
const deaths = DEATHS.flatMap(([death, times]) => Array<Death>(times * SCALE).fill(death));
while (deaths.length > 0) {
  const [death] = deaths.splice(random.below(deaths.length), 1);
  await happen(death);
  await sleep(random.below(2 * PAUSE_MS));
}
running = false;
clearInterval(sampling);
await Promise.all(clients);
const seconds = (performance.now() - began) / 1_000;
const requests = [...ends.values()].reduce((sum, times) => sum + times, 0) + wrong.length;
console.log(`${requests} requests in ${seconds.toFixed(0)} s: ${JSON.stringify(Object.fromEntries(ends))}`);
if (samples.length > 3) {
  const late = await Promise.all(gateways.map((gateway) => gateway.metric("aigw_event_loop_delay_seconds_sum")));
  console.log(
    `over the later half, both gateways: memory ${slopeOf("memoryMib")} (MiB), open files ${slopeOf("files")}, ` +
      `threads ${slopeOf("threads")}, rows ${slopeOf("rows")}, requests ${slopeOf("requests")}; ` +
      `the workers' loops were ${late.map((seconds) => seconds.toFixed(1)).join(" and ")} s late in all`,
  );
}
for (const one of wrong.slice(0, 20)) console.log(`WRONG ${one}`);

for (const gateway of gateways) await gateway.settled();
await sleep(1_500);
for (const gateway of gateways) {
  for (const one of await gateway.endpoints()) {
    const { in_flight, prompt_bytes, remote_in_flight, remote_prompt_bytes } = one as unknown as Record<string, number>;
    assertEquals([in_flight, prompt_bytes, remote_in_flight, remote_prompt_bytes], [0, 0, 0, 0]);
  }
}
const { data } = await (await fetch(`${center.origin}/v1/load/stats?cluster=c`)).json();
for (const one of data ?? []) assertEquals([one.queued_req_num, one.prompt_length], [0, 0]);
console.log("every counter is 0: gateways and center");
for (const gateway of gateways) await gateway[Symbol.asyncDispose]();
await center.kill();
for (const engine of engines) await engine.kill();
console.log(wrong.length === 0 ? "every answer was whole, or said that it was not" : `${wrong.length} were neither`);
Deno.exit(wrong.length === 0 ? 0 : 1);
