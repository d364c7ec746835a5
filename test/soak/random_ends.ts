// SPDX-License-Identifier: Apache-2.0
// `deno task soak`: requests with random ends through two gateways that share a metadata center; afterwards every counter
// of gateways, engines and center is 0. AIGW_SOAK_REQUESTS says how many (100,000).

import { helpOf } from "../support/task_help.ts";
import { assertEquals } from "@std/assert";
import { startCenterProcess } from "../support/center.ts";
import { chat, post, sleep, startEngines, startTestGateway } from "../support/gateway.ts";
import { Random, seed } from "../support/seed.ts";

helpOf(`Usage: deno task soak

Requests with random ends through two gateways; AIGW_SOAK_REQUESTS says how many (100000).`);

const REQUESTS = Number(Deno.env.get("AIGW_SOAK_REQUESTS") ?? 100_000);
const CLIENTS = 64;
const random = new Random(seed);

const engines = startEngines(4, { speed: 200 });
const center = await startCenterProcess();
const gateways = await Promise.all(
  [0, 1].map(() =>
    startTestGateway(engines, {
      metadata_center: { host: "127.0.0.1", port: center.port },
      timeouts: { stream_idle_ms: 300 },
    })
  ),
);
const faults = [
  '{"kind":"status","status":503}',
  '{"kind":"status","status":400}',
  '{"kind":"cut","after_tokens":2}',
  '{"kind":"stall","after_tokens":1}',
];
const ends = new Map<string, number>();
const count = (end: string) => ends.set(end, (ends.get(end) ?? 0) + 1);
let sent = 0;
const started = performance.now();

async function client(): Promise<void> {
  while (sent < REQUESTS) {
    const n = sent++;
    const stream = random.chance(0.5);
    const headers: Record<string, string> = random.chance(0.03) ? { "x-mock-fault": random.pick(faults) } : {};
    const controller = new AbortController();
    const leaves = random.chance(0.15);
    const timer = leaves ? setTimeout(() => controller.abort(), random.below(12)) : undefined;
    try {
      const body = chat(`${n % 500} ${"word ".repeat(random.below(300))}`, {
        stream,
        max_tokens: 1 + random.below(12),
      });
      const response = await post(random.pick(gateways).origin, body, { signal: controller.signal, headers });
      const text = await response.text();
      count(
        response.status !== 200
          ? `status ${response.status}`
          : stream && !text.includes("[DONE]")
          ? "error event"
          : "complete",
      );
    } catch {
      count(leaves ? "left" : "cut");
    }
    clearTimeout(timer);
    if (n % 10_000 === 0 && n > 0) {
      console.log(
        `${n} requests, ${Math.round(n / (performance.now() - started) * 1_000)}/s, ${
          Math.round(Deno.memoryUsage().rss / 2 ** 20)
        } MiB`,
      );
    }
  }
}

await Promise.all(Array.from({ length: CLIENTS }, client));
console.log(
  `${REQUESTS} requests in ${((performance.now() - started) / 1_000).toFixed(1)} s: ${
    JSON.stringify(Object.fromEntries(ends))
  }`,
);
for (const gateway of gateways) await gateway.settled();
console.log("settled");
await sleep(1_500);
for (const gateway of gateways) {
  const { endpoints } = await (await fetch(`${gateway.admin}/endpoints`)).json();
  for (const one of endpoints) {
    assertEquals([one.in_flight, one.prompt_bytes, one.remote_in_flight, one.remote_prompt_bytes], [0, 0, 0, 0]);
  }
}
const { data } = await (await fetch(`${center.origin}/v1/load/stats?cluster=c`)).json();
for (const one of data ?? []) assertEquals([one.queued_req_num, one.prompt_length], [0, 0]);
console.log("center and tables are at zero");
for (const { model } of engines) assertEquals([model.waiting, model.running, model.cache.inUse], [0, 0, 0]);
for (const gateway of gateways) await gateway[Symbol.asyncDispose]();
console.log("gateways stopped");
await center.kill();
await engines[Symbol.asyncDispose]();
console.log("Every counter is 0: gateways, engines, center");
Deno.exit(0);
