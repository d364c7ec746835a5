// SPDX-License-Identifier: Apache-2.0
// A small run of the routing bench, so that it cannot rot: every policy answers every request, the same from the same
// seed, and what the bench is there to show holds on a loaded fleet.

import { assert, assertAlmostEquals, assertEquals } from "@std/assert";
import { prefillMs } from "../../src/mock/engine_model.ts";
import { boundTtft } from "../../bench/routing/bound.ts";
import { GatewayPolicy } from "../../bench/routing/gateway_policy.ts";
import { PUBLISHED } from "../../bench/routing/published.ts";
import { measure, merge, plot, type Point, table, versus } from "../../bench/routing/report.ts";
import { parseFleet } from "../../bench/routing/hardware.ts";
import { type Fleet, type RoutingPolicy, Simulator, UNDISTURBED } from "../../bench/routing/simulator.ts";
import { idealHitRatio, makeTrace, readTrace, shaken, type Trace, WORKLOADS } from "../../bench/routing/trace.ts";
import { Random } from "../support/seed.ts";
import { sharedText } from "../support/shared.ts";

const POLICIES: Record<string, (fleet: Fleet) => RoutingPolicy> = {
  ...Object.fromEntries(
    Object.entries(PUBLISHED).map((
      [name, Rule],
    ) => [name, (fleet: Fleet): RoutingPolicy => new Rule(fleet, new Random(1))]),
  ),
  ...Object.fromEntries(
    (["inference_lb", "expected_ttft", "slo", "late_binding"] as const).map((
      algorithm,
    ) => [algorithm, (fleet: Fleet) => new GatewayPolicy(fleet, { algorithm, seed: 1, disturbance: UNDISTURBED })]),
  ),
};

async function run(trace: Trace, policy: string, { fleet = "small:1,standard:2,large:1", load = 1 } = {}) {
  const hardware = parseFleet(fleet)!;
  const simulator = new Simulator(hardware);
  const jobs = await simulator.run(trace.requests, load, POLICIES[policy]);
  const point = measure(jobs, simulator, {
    trace: trace.name,
    disturbance: "none",
    engines: hardware.length,
    fleet,
    load,
    policy,
    ideal_hit_ratio: idealHitRatio(trace.requests),
  });
  return { jobs, simulator, point };
}

Deno.test("every policy answers every request of every workload, the same from the same seed", async () => {
  for (const name of Object.keys(WORKLOADS)) {
    const trace = makeTrace(name, 3, 150);
    for (const policy of Object.keys(POLICIES)) {
      const { jobs, simulator, point } = await run(trace, policy);
      for (const job of jobs) {
        assert(
          job.at <= job.sentAt && job.sentAt < job.firstTokenAt && job.firstTokenAt <= job.endAt,
          `${name} ${policy}`,
        );
      }
      assertEquals(simulator.engines.map(({ idle }) => idle), Array(4).fill(true));
      assert(point.prefix_hit_ratio <= point.ideal_hit_ratio + 1e-9, `${name} ${policy}: more hits than there are`);
      assertEquals((await run(makeTrace(name, 3, 150), policy)).point, point);
    }
  }
});

Deno.test("parseFleet: a number, or counts by hardware", () => {
  const rates = (text: string) => parseFleet(text)?.map(({ prefillTokensPerSecond }) => prefillTokensPerSecond);
  assertEquals(rates("2"), [8_000, 8_000]);
  assertEquals(rates("small:2,large:1"), [4_000, 4_000, 16_000]);
  for (
    const wrong of ["", "0", "small", "huge:1", "small:0", "small:1,", "toString:1", "-1", "1.5", "small:1 large:1"]
  ) {
    assertEquals(parseFleet(wrong), undefined, wrong);
  }
});

Deno.test("one engine alone answers as its profile says", async () => {
  const blocks = [1, 2, 3, 4];
  const one = { inputTokens: 2_048, outputTokens: 3, blocks, tenant: 0 };
  const trace = { name: "two", requests: [{ ...one, at: 0 }, { ...one, at: 10_000 }] };
  const { jobs } = await run(trace, "round_robin", { fleet: "standard:1" });
  // A step of 6 ms and 0.35 ms for the request, and 2,048 tokens at 8,000 a second; the second prompt is all but cached.
  assertAlmostEquals(jobs[0].firstTokenAt - jobs[0].at, 6.35 + 256, 1e-6);
  assertAlmostEquals(jobs[0].endAt - jobs[0].firstTokenAt, 2 * 6.35, 1e-6);
  assertEquals(jobs[1].cachedTokens, 2_047);
  assertAlmostEquals(jobs[1].firstTokenAt - jobs[1].at, 6.35 + 1_000 / 8_000, 1e-6);
});

Deno.test("beyond saturation late binding answers sooner than the best rule that sends at once", async () => {
  const trace = makeTrace("multi_turn", 1, 1_500);
  const scale = 4;
  const late = (await run(trace, "late_binding", { load: scale })).point;
  const others: number[] = [];
  for (const policy of ["smg_cache_aware", "llmd_blend", "llmd_sticky", "inference_lb", "expected_ttft"]) {
    others.push((await run(trace, policy, { load: scale })).point.ttft_ms.mean);
  }
  assert(late.ttft_ms.mean < Math.min(...others), `${late.ttft_ms.mean} beside ${others}`);
});

Deno.test("engines as in vLLM: every policy answers every request; none is sooner than the bound", async () => {
  const fleet = "vllm:1,vllm_large:1";
  for (const name of ["short_prompts", "agents"]) {
    const trace = makeTrace(name, 5, 150);
    const scaled = trace.requests.map((request) => ({ ...request, at: request.at / 2 }));
    const bound = boundTtft(parseFleet(fleet)!, scaled, Infinity);
    assertEquals(bound.length, 150);
    const least = bound.reduce((sum, ms) => sum + ms, 0) / 150;
    for (const policy of ["smg_cache_aware", "dynamo_queue", "late_binding"]) {
      const { jobs, simulator, point } = await run(trace, policy, { fleet, load: 2 });
      assert(jobs.every(({ sentAt, firstTokenAt, endAt }) => sentAt < firstTokenAt && firstTokenAt <= endAt));
      assertEquals(simulator.engines.map(({ idle }) => idle), [true, true]);
      assert(point.ttft_ms.mean > least, `${name} ${policy}: ${point.ttft_ms.mean} beside ${least}`);
    }
  }
});

Deno.test("bound: the shortest prompt of those that wait goes first; what was computed is computed no more", () => {
  const [engine] = parseFleet("standard:1")!;
  const one = (at: number, inputTokens: number, first: number) => ({
    at,
    inputTokens,
    outputTokens: 1,
    blocks: Array.from({ length: Math.ceil(inputTokens / 512) }, (_, i) => first + i),
    tenant: 0,
  });
  const long = prefillMs(engine, 8_192, 8_192);
  const short = prefillMs(engine, 1_024, 1_024);
  const again = prefillMs(engine, 8_192, 1);
  const ttft = boundTtft([engine], [one(0, 8_192, 0), one(1, 16_384, 100), one(2, 1_024, 200), one(3, 8_192, 0)]);
  const expected = [long, long - 3 + again, long - 2 + again + short];
  expected.forEach((ms, i) => assertAlmostEquals(ttft[i], ms, 1e-6));
  const both = boundTtft([engine, engine], [one(0, 8_192, 0), one(1, 1_024, 200)]);
  both.forEach((ms, i) => assertAlmostEquals(ms, [long, short][i], 1e-6));
});

Deno.test("seeds: a shaken trace has the same requests a little sooner or later; points are merged by their means", () => {
  const trace = makeTrace("bursts", 1, 200);
  const moved = shaken(trace, 2);
  assertEquals(
    moved.requests.map(({ blocks }) => blocks[0]).sort(),
    trace.requests.map(({ blocks }) => blocks[0]).sort(),
  );
  const at = new Map(trace.requests.map(({ blocks, at }) => [blocks[0], at]));
  assert(moved.requests.every((request, i, all) => {
    return Math.abs(request.at - at.get(request.blocks[0])!) <= 500 && (i === 0 || all[i - 1].at <= request.at);
  }));
  assert(moved.requests.some((request) => request.at !== at.get(request.blocks[0])));
  const distribution = (mean: number) => ({ mean, p50: 1, p90: 2, p99: 3, max: 4 });
  const point = (mean: number, goodput: number) =>
    ({ trace: "t", ttft_ms: distribution(mean), tpot_ms: distribution(1), e2e_ms: distribution(2), goodput }) as Point;
  const merged = merge([point(10, 0.5), point(16, 0.7)]);
  assertEquals([merged.ttft_ms.mean, merged.goodput, merged.seed_means_ms], [13, 0.6, [10, 16]]);
  const rule = (means: number[]) => merge(means.map((mean) => ({ ...point(mean, 0.5), policy: "rule" })));
  const own = { ...merged, policy: "own" };
  const ratioTo = (means: number[]) =>
    versus([own, rule(means)], "own", ["rule"], () => []).split("\n")[2].split("|")[8].trim();
  assertEquals([ratioTo([9, 14]), ratioTo([9, 17]), ratioTo([20, 32])], ["**1.13**", "**1.00** (tie)", "**0.50**"]);
});

Deno.test("the trace formats are read; reports hold every policy", async () => {
  const points: Point[] = [];
  for (const policy of ["random", "late_binding"]) {
    for (const load of [0.5, 1]) points.push((await run(makeTrace("bursts", 1, 60), policy, { load })).point);
  }
  assertEquals(table(points).split("\n").length, 2 + points.length);
  assert(plot(points, "bursts").includes(">late_binding</text>"));
  if (sharedText("data/README.md") === undefined) return;
  const folder = new URL("../../../shared/data/traces/", import.meta.url).pathname;
  const conversation = await readTrace(`${folder}mooncake_conversation.jsonl`);
  assertEquals(conversation.requests.length, 12_031);
  assertAlmostEquals(idealHitRatio(conversation.requests), 0.374, 0.002);
  assert(conversation.requests.every(({ at }, i, all) => i === 0 || at >= all[i - 1].at));
  assertEquals((await readTrace(`${folder}azure_2023_conv.csv`)).requests.length, 19_366);
});
