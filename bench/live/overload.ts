// SPDX-License-Identifier: Apache-2.0
// `deno task bench:live overload SECONDS`: a mock fleet at 150 % of what it takes, with the gateway's protection and
// without it: goodput within the objective, critical requests beside those at 70 %, and how fast refusals are.

import { Random } from "../../src/base/random.ts";
import { type Answer, ask, quantile, sleep, startEngine, startGateway, textOf } from "./fleet.ts";

export const ENGINES = 4;
export const OBJECTIVE_MS = 2_000;
/** Mean prompt of 2,400 tokens, 30 tokens of answer: what the fleet takes, requests a second. */
export const CAPACITY = 11.5;
/** A refusal after so long was not at once: the request waited first. Waiting requests are looked at every 50 ms. */
const WAITED_MS = 40;

interface Result extends Answer {
  priority: string;
}

interface RunOptions {
  /** Share of what the fleet takes. */
  readonly load: number;
  readonly seconds: number;
  readonly seed: number;
  /** Whether requests tell their objective. */
  readonly objectives: boolean;
}

async function run(port: number, { load, seconds, seed, objectives }: RunOptions): Promise<Result[]> {
  const random = new Random(seed);
  const all: Promise<Result>[] = [];
  const began = performance.now();
  let at = 0;
  for (let i = 0; at < seconds * 1_000; i++) {
    const priority = random.chance(0.2) ? "critical" : random.chance(0.5) ? "standard" : "batch";
    const headers: Record<string, string> = { "x-aigw-priority": priority };
    if (objectives) headers["x-aigw-ttft-slo-ms"] = String(OBJECTIVE_MS);
    const text = textOf(seed * 1_000_000 + i, 800 + random.below(3_200));
    all.push(ask(port, text, 20 + random.below(20), { headers }).then((answer) => ({ ...answer, priority })));
    at += -1_000 / (load * CAPACITY) * Math.log(1 - random.next());
    await sleep(Math.max(0, at - (performance.now() - began)));
  }
  return await Promise.all(all);
}

function report(name: string, results: Result[], seconds: number): { goodput: number; critical: number } {
  const good = results.filter(({ status, ttftMs }) => status === 200 && ttftMs <= OBJECTIVE_MS).length / seconds;
  const critical = results.filter(({ status, priority }) => status === 200 && priority === "critical").map((
    { ttftMs },
  ) => ttftMs);
  // An event with the error, where the head of the answer was sent already.
  const refused = results.filter(({ status, reason }) => status === 429 || (status === 500 && reason !== ""));
  const waited = refused.filter(({ totalMs }) => totalMs >= WAITED_MS);
  const atOnce = refused.filter(({ totalMs }) => totalMs < WAITED_MS);
  const reasons: Record<string, number> = {};
  for (const { status, reason, priority } of results) {
    const key = status === 200 ? `${priority} answered` : `${priority} ${reason || status}`;
    reasons[key] = (reasons[key] ?? 0) + 1;
  }
  const p99 = critical.length > 0 ? quantile(critical, 0.99) : NaN;
  console.log(
    `${name}: goodput ${good.toFixed(2)}/s, critical TTFT p99 ${Math.round(p99)} ms, all p50 ${
      Math.round(quantile(results.filter(({ status }) => status === 200).map(({ ttftMs }) => ttftMs), 0.5))
    } ms${
      atOnce.length > 0 ? `, refusals p99 ${quantile(atOnce.map(({ totalMs }) => totalMs), 0.99).toFixed(1)} ms` : ""
    }${
      waited.length > 0
        ? `, ${waited.length} of ${refused.length} given up while they waited, p50 ${
          Math.round(quantile(waited.map(({ totalMs }) => totalMs), 0.5))
        } ms`
        : ""
    }`,
  );
  console.log(`  ${JSON.stringify(reasons)}`);
  return { goodput: good, critical: p99 };
}

export async function overload(seconds: number): Promise<void> {
  const engines = await Promise.all(Array.from({ length: ENGINES }, () => startEngine(1)));
  const ports = engines.map(({ port }) => port);
  const anonymous = { priority: "critical" };
  const protectedGateway = await startGateway(ports, {
    workers: 1,
    tenancy: { anonymous },
    saturation: { backlog_ms: 1_000 },
    probes: { metrics_interval_ms: 100 },
  });
  const bare = await startGateway(ports, {
    workers: 1,
    algorithm: "least_request",
    tenancy: { anonymous },
    admission: { shed_below: -1_000 },
  });
  const short = Math.max(20, seconds / 5);
  const measured = async (what: string, load: number, seconds: number, seed: number) =>
    report(what, await run(protectedGateway.port, { load, seconds, seed, objectives: true }), seconds);
  try {
    await sleep(1_500);
    await run(protectedGateway.port, { load: 0.5, seconds: 15, seed: 1, objectives: true });
    const at70 = await measured("protected at 70 %", 0.7, short, 2);
    const at90 = await measured("protected at 90 %", 0.9, short, 3);
    const at100 = await measured("protected at 100 %", 1, short, 4);
    const at150 = await measured("protected at 150 %", 1.5, seconds, 5);
    const best = Math.max(at70.goodput, at90.goodput, at100.goodput);
    console.log(
      `goodput at 150 % is ${(100 * at150.goodput / best).toFixed(0)} % of the best; critical p99 is ${
        (at150.critical / at70.critical).toFixed(2)
      } times that at 70 %`,
    );
    report(
      "without protection at 150 %",
      await run(bare.port, { load: 1.5, seconds: short, seed: 6, objectives: false }),
      short,
    );
  } finally {
    await protectedGateway.kill("SIGTERM");
    await bare.kill("SIGTERM");
    for (const engine of engines) await engine.kill();
  }
}
