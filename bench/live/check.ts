// SPDX-License-Identifier: Apache-2.0
// `deno task bench:live check`: a trace through the real gateway, beside what the simulation says of the same requests;
// then the same with an engine killed, a worker ended, and a third of the clients leaving.

import { GatewayPolicy } from "../routing/gateway_policy.ts";
import { HARDWARE } from "../routing/hardware.ts";
import { Simulator, UNDISTURBED } from "../routing/simulator.ts";
import { BLOCK_TOKENS, readTrace, type TraceRequest } from "../routing/trace.ts";
import { Random } from "../../src/base/random.ts";
import { startRelay } from "./relay.ts";
import { type Answer, ask, mean, sleep, startEngine, startGateway, textOf } from "./fleet.ts";

const SPEED = 10;
const ENGINES = 8;

/** The prompt of a trace row: equal blocks are equal text. */
function promptOf({ blocks, inputTokens }: TraceRequest): string {
  let left = inputTokens;
  return blocks.map((id) => {
    const tokens = Math.min(BLOCK_TOKENS, left);
    left -= tokens;
    return textOf(id, tokens);
  }).join("");
}

async function play(
  port: number,
  requests: readonly TraceRequest[],
  scale: number,
  leaving: (i: number) => number | undefined,
) {
  const began = performance.now();
  return await Promise.all(requests.map(async (request, i): Promise<Answer> => {
    await sleep(Math.max(0, request.at / scale - (performance.now() - began)));
    const after = leaving(i);
    const signal = after === undefined ? undefined : AbortSignal.timeout(after);
    return await ask(port, promptOf(request), request.outputTokens, { signal });
  }));
}

async function untilIdle(admin: string): Promise<number> {
  const began = performance.now();
  for (;;) {
    const { endpoints } = await (await fetch(`${admin}/endpoints`)).json();
    const busy = endpoints.filter((one: { in_flight: number; prompt_bytes: number }) =>
      one.in_flight || one.prompt_bytes
    );
    if (busy.length === 0) return performance.now() - began;
    if (performance.now() - began > 60_000) throw new Error(`Load is left: ${JSON.stringify(busy)}`);
    await sleep(50);
  }
}

/** @param delayMs Of the network between gateway and engines, each way; in the engines' time it is SPEED times as long. */
export async function check(file: string, count: number, scale: number, delayMs: number): Promise<void> {
  const trace = await readTrace(file);
  const requests = trace.requests.slice(0, count);
  const engines = await Promise.all(Array.from({ length: ENGINES }, () => startEngine(SPEED)));
  const relays = delayMs > 0 ? engines.map(({ port }) => startRelay(port, delayMs)) : [];
  const ports = delayMs > 0 ? relays : engines;
  const gateway = await startGateway(ports.map(({ port }) => port), {
    workers: 2,
    limits: { prompt_chunks: 4_096, prefixes: 1_048_576 },
    probes: { metrics_interval_ms: 100 },
    prediction: { prefill_tokens_per_s: 8_000 * SPEED },
    queue: {
      slack_ms: 300 / SPEED,
      overdue_base_ms: 1_000 / SPEED,
      balance_ms: 300 / SPEED,
      tie_ms: 2 / SPEED,
    },
  });
  try {
    await sleep(1_500);
    const answers = await play(gateway.port, requests, scale * SPEED, () => undefined);
    const good = answers.filter(({ status }) => status === 200);
    const hits = (list: readonly { promptTokens: number; cachedTokens: number }[]) =>
      list.reduce((sum, one) => sum + one.cachedTokens, 0) / list.reduce((sum, one) => sum + one.promptTokens, 0);
    const conditions = { ...UNDISTURBED, networkMs: delayMs * SPEED };
    const simulator = new Simulator(Array(ENGINES).fill(HARDWARE.standard), conditions);
    const jobs = await simulator.run(
      requests,
      scale,
      (fleet) => new GatewayPolicy(fleet, { algorithm: "late_binding", seed: 1, disturbance: conditions }),
    );
    const live = { ttft: mean(good.map(({ ttftMs }) => ttftMs)) * SPEED / 1_000, hits: hits(good) };
    const simulated = {
      ttft: mean(jobs.map(({ firstTokenAt, at }) => firstTokenAt - at)) / 1_000,
      hits: hits(jobs.map(({ inputTokens, cachedTokens }) => ({ promptTokens: inputTokens, cachedTokens }))),
    };
    console.log(
      `${good.length} of ${requests.length} requests of ${trace.name} answered, ${ENGINES} engines at ${SPEED} times their speed`,
    );
    console.log(
      `mean TTFT, in the engines' time: live ${live.ttft.toFixed(3)} s, simulated ${
        simulated.ttft.toFixed(3)
      } s, ratio ${(live.ttft / simulated.ttft).toFixed(2)}`,
    );
    console.log(
      `hit ratio: live ${live.hits.toFixed(3)}, simulated ${simulated.hits.toFixed(3)}, ratio ${
        (live.hits / simulated.hits).toFixed(2)
      }`,
    );
    console.log(`idle again after ${Math.round(await untilIdle(gateway.admin))} ms`);

    const random = new Random(7);
    const chaos = requests.slice(0, Math.floor(count / 2));
    const span = chaos.at(-1)!.at / (scale * SPEED);
    setTimeout(() => engines[3].kill(), span / 3);
    setTimeout(
      () =>
        fetch(`${gateway.admin}/workers/1/restart?now`, { method: "POST", headers: { "x-aigw-admin": "bench" } }).then((
          one,
        ) => one.body?.cancel()),
      span / 2,
    );
    const after = await play(
      gateway.port,
      chaos,
      scale * SPEED,
      () => random.chance(1 / 3) ? random.below(400) : undefined,
    );
    const counts: Record<string, number> = {};
    for (const { status, reason } of after) counts[`${status} ${reason}`] = (counts[`${status} ${reason}`] ?? 0) + 1;
    console.log(`an engine and a worker killed, a third of ${chaos.length} clients left: ${JSON.stringify(counts)}`);
    console.log(
      `longest wait of anybody ${Math.round(Math.max(...after.map(({ totalMs }) => totalMs)))} ms; idle again after ${
        Math.round(await untilIdle(gateway.admin))
      } ms`,
    );
  } finally {
    await gateway.kill("SIGTERM");
    for (const engine of engines) await engine.kill();
    for (const relay of relays) relay[Symbol.dispose]();
  }
}
