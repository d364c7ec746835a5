// SPDX-License-Identifier: Apache-2.0
// `deno task bench:live retries SECONDS`: a mock fleet at three times what it takes, by clients that send every refused
// request again at once, and how it recovers when that ends.

import { Random } from "../../src/base/random.ts";
import { ask, mean, quantile, sleep, startEngine, startGateway, textOf } from "./fleet.ts";
import { CAPACITY, ENGINES, OBJECTIVE_MS } from "./overload.ts";

/** How long a client goes on asking. */
const PATIENCE_MS = 3_000;
/** Seconds of which a goodput is told. */
const WINDOW_S = 5;

interface Asked {
  /** Ms from the beginning at which it was sent first. */
  readonly at: number;
  /** Whether it was answered, its first token within the objective of the attempt that got through. */
  readonly good: boolean;
  readonly answered: boolean;
  /** What refusals took, ms. */
  readonly refusals: readonly number[];
}

async function persist(port: number, text: string, tokens: number, at: number): Promise<Asked> {
  const began = performance.now();
  const refusals: number[] = [];
  for (;;) {
    const answer = await ask(port, text, tokens, { headers: { "x-aigw-ttft-slo-ms": String(OBJECTIVE_MS) } });
    // 500: an event with the reason, where the head had been sent already.
    const refused = answer.status === 429 || answer.status === 503 || (answer.status === 500 && answer.reason !== "");
    if (refused) refusals.push(answer.totalMs);
    const answered = answer.status === 200;
    if (!refused || performance.now() - began > PATIENCE_MS) {
      return { at, answered, good: answered && answer.ttftMs <= OBJECTIVE_MS, refusals };
    }
  }
}

export async function retries(seconds: number): Promise<void> {
  const engines = await Promise.all(Array.from({ length: ENGINES }, () => startEngine(1)));
  const gateway = await startGateway(engines.map(({ port }) => port), {
    workers: 1,
    saturation: { backlog_ms: 1_000 },
    probes: { metrics_interval_ms: 100 },
  });
  try {
    await sleep(1_500);
    const random = new Random(1);
    const phases = [["70 %", 0.7], ["300 %", 3], ["70 % again", 0.7]] as const;
    const all: Promise<Asked>[] = [];
    const began = performance.now();
    let at = 0;
    phases.forEach(([, load], phase) => {
      while (at < (phase + 1) * seconds * 1_000) {
        const [from, text] = [at, textOf(all.length, 800 + random.below(3_200))];
        const tokens = 20 + random.below(20);
        all.push(
          sleep(Math.max(0, from - (performance.now() - began))).then(() => persist(gateway.port, text, tokens, from)),
        );
        at += -1_000 / (load * CAPACITY) * Math.log(1 - random.next());
      }
    });
    const asked = await Promise.all(all);
    const within = (from: number, to: number) => asked.filter((one) => one.at >= from * 1_000 && one.at < to * 1_000);
    const goodput = (some: Asked[], of: number) => some.filter(({ good }) => good).length / of;
    const result = phases.map(([name], phase) => {
      const some = within(phase * seconds, (phase + 1) * seconds);
      const refusals = some.flatMap((one) => one.refusals);
      const fast = goodput(some, seconds);
      console.log(
        `${name}: ${some.length} requests in ${some.length + refusals.length} attempts, goodput ${fast.toFixed(2)}/s, ${
          some.filter(({ answered }) => !answered).length
        } never answered` +
          (refusals.length > 0
            ? `, refusals p50 ${quantile(refusals, 0.5).toFixed(1)} ms, p99 ${quantile(refusals, 0.99).toFixed(1)} ms`
            : ""),
      );
      return fast;
    });
    // Recovered: from here on no window has fewer of its requests answered well than 95 %.
    const windows = Array.from({ length: Math.floor(seconds / WINDOW_S) }, (_, i) => {
      const some = within(2 * seconds + i * WINDOW_S, 2 * seconds + (i + 1) * WINDOW_S);
      return mean(some.map(({ good }) => good ? 1 : 0));
    });
    const last = windows.findLastIndex((share) => share < 0.95);
    console.log(
      `goodput at 300 % is ${(100 * result[1] / result[0]).toFixed(0)} % of that at 70 %; ` +
        `recovered ${last < 0 ? "within" : "after"} ${(last < 0 ? 1 : last + 1) * WINDOW_S} s`,
    );
  } finally {
    await gateway.kill("SIGTERM");
    for (const engine of engines) await engine.kill();
  }
}
