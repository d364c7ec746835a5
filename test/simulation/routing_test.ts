// SPDX-License-Identifier: Apache-2.0
// A small run of the routing bench, so that it cannot rot: every policy answers every request, the same from the same
// seed, and what the bench is there to show holds on a loaded fleet.

import { assert, assertAlmostEquals, assertEquals } from "@std/assert";
import { GatewayPolicy } from "../../bench/routing/gateway_policy.ts";
import { PUBLISHED } from "../../bench/routing/published.ts";
import { measure, plot, type Point, table } from "../../bench/routing/report.ts";
import { parseFleet } from "../../bench/routing/hardware.ts";
import { type Fleet, type RoutingPolicy, Simulator, UNDISTURBED } from "../../bench/routing/simulator.ts";
import { idealHitRatio, makeTrace, readTrace, type Trace, WORKLOADS } from "../../bench/routing/trace.ts";
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
  const scale = 3;
  const late = (await run(trace, "late_binding", { load: scale })).point;
  const others: number[] = [];
  for (const policy of ["smg_cache_aware", "llmd_blend", "llmd_sticky", "inference_lb", "expected_ttft"]) {
    others.push((await run(trace, policy, { load: scale })).point.ttft_ms.mean);
  }
  assert(late.ttft_ms.mean < Math.min(...others), `${late.ttft_ms.mean} beside ${others}`);
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
