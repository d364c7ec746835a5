// SPDX-License-Identifier: Apache-2.0
// Fair shares on the virtual clock, with the real queue: tokens by weight, a flood that hurts nobody but its sender, and a
// share that is not used and goes to the others.

import { assert } from "@std/assert";
import { GatewayPolicy } from "../../bench/routing/gateway_policy.ts";
import { HARDWARE } from "../../bench/routing/hardware.ts";
import { type Job, Simulator, UNDISTURBED } from "../../bench/routing/simulator.ts";
import type { TraceRequest } from "../../bench/routing/trace.ts";
import { Random, seed } from "../support/seed.ts";

const ENGINES = 8;
const WINDOW_MS = 30_000;

/** Requests of a tenant at so many a second, from `from` to `until` seconds. */
function requests(random: Random, tenant: number, perSecond: number, until: number, from = 0): TraceRequest[] {
  const all: TraceRequest[] = [];
  for (let at = 1_000 * from; at < 1_000 * until; at += 1_000 / perSecond * -Math.log(1 - random.next())) {
    const inputTokens = 300 + random.below(2_400);
    const blocks = Array.from({ length: Math.ceil(inputTokens / 512) }, () => random.below(2 ** 40));
    all.push({ at, inputTokens, outputTokens: 20 + random.below(180), blocks, tenant });
  }
  return all;
}

async function run(trace: TraceRequest[], weights: number[]): Promise<Job[]> {
  const simulator = new Simulator(Array(ENGINES).fill(HARDWARE.standard), UNDISTURBED);
  const sorted = trace.toSorted((a, b) => a.at - b.at);
  return await simulator.run(
    sorted,
    1,
    (fleet) => new GatewayPolicy(fleet, { algorithm: "late_binding", seed: 1, disturbance: UNDISTURBED, weights }),
  );
}

/** Tokens that each tenant was served in a window: a prompt when it is granted, an answer as it comes. */
function served(jobs: readonly Job[], tenants: number, from: number): number[] {
  const until = from + WINDOW_MS;
  const tokens = Array(tenants).fill(0);
  for (const { tenant, sentAt, firstTokenAt, endAt, inputTokens, outputTokens } of jobs) {
    if (sentAt >= from && sentAt < until) tokens[tenant] += inputTokens;
    const [begin, end] = [Math.max(from, firstTokenAt), Math.min(until, endAt)];
    if (end > begin) tokens[tenant] += outputTokens * (end - begin) / (endAt - firstTokenAt);
  }
  return tokens;
}

const p99 = (jobs: readonly Job[]) => {
  const sorted = jobs.map(({ firstTokenAt, at }) => firstTokenAt - at).sort((a, b) => a - b);
  return sorted[Math.floor(0.99 * sorted.length)];
};

Deno.test("shares: three tenants above their share get tokens as 1 : 2 : 4, within 5 % over any 30 s", async () => {
  const random = new Random(seed);
  const weights = [1, 2, 4];
  // 8 engines take some 40 of these requests a second.
  const jobs = await run(weights.flatMap((_, tenant) => requests(random, tenant, 45, 80)), weights);
  let worst = 0;
  for (let from = 10_000; from + WINDOW_MS <= 80_000; from += 2_500) {
    const tokens = served(jobs, 3, from);
    const total = tokens.reduce((sum, value) => sum + value, 0);
    weights.forEach((weight, tenant) => {
      const off = Math.abs(tokens[tenant] / total / (weight / 7) - 1);
      worst = Math.max(worst, off);
      assert(
        off <= 0.05,
        `tenant ${tenant} from ${from} ms: ${tokens[tenant]} of ${total}, ${(100 * off).toFixed(1)} % off`,
      );
    });
  }
  console.log(`shares are at most ${(100 * worst).toFixed(1)} % off`);
});

Deno.test("shares: a tenant that floods with 50 times its share adds at most 10 % to the others' p99 TTFT", async () => {
  // The others' p99 over two runs when a fourth tenant asks for this many times its share of 10 a second.
  const beside = async (times: number) => {
    const others: Job[] = [];
    for (const round of [1, 2]) {
      const quiet = [1, 2, 3].flatMap((tenant) => requests(new Random(10 * round + tenant), tenant, 6, 15));
      const jobs = await run([...quiet, ...requests(new Random(round), 0, 10 * times, 15)], [1, 1, 1, 1]);
      others.push(...jobs.filter(({ tenant }) => tenant !== 0));
    }
    return p99(others);
  };
  // From some two times its share on the fleet is full; what is beyond that is the flood.
  const [twice, before, after] = [await beside(2), await beside(4), await beside(50)];
  console.log(
    `p99 of the others beside 2, 4 and 50 times a share: ${[twice, before, after].map(Math.round).join(", ")} ms`,
  );
  assert(after <= 1.1 * before, `${after} ms, before ${before} ms`);
});

Deno.test("shares: what one does not use goes to the others, and idleness is no credit", async () => {
  const random = new Random(seed);
  const trace = [
    ...requests(random, 0, 50, 90),
    ...requests(random, 1, 50, 90),
    // Asks for nothing for a minute, then for more than there is.
    ...requests(random, 2, 80, 90, 60),
  ];
  const jobs = await run(trace, [1, 1, 2]);
  const early = served(jobs, 3, 20_000);
  const total = early[0] + early[1];
  assert(total / WINDOW_MS * 1_000 > 0.8 * ENGINES * 6_000, `the two use all of it: ${total} tokens in 30 s`);
  assert(Math.abs(early[0] / total - 0.5) < 0.03);
  const late = served(jobs, 3, 60_000);
  const all = late.reduce((sum, value) => sum + value, 0);
  assert(late[2] / all < 0.56, `no more than its share after it was idle: ${late[2]} of ${all}`);
  assert(late[2] / all > 0.44, `and no less: ${late[2]} of ${all}`);
});
