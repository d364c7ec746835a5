// SPDX-License-Identifier: Apache-2.0
import { assert } from "@std/assert";
import { GradientLimit } from "../../src/admission/gradient.ts";
import { Random, seed } from "../support/seed.ts";

const OPTIONS = { min: 8, max: 512, tolerance: 1.5 };

Deno.test("GradientLimit finds the number of requests beyond which latency grows, and finds another when that moves", () => {
  const random = new Random(seed);
  const limit = new GradientLimit(OPTIONS);
  let allowed = OPTIONS.max;
  // As many as are allowed are in flight; beyond `knee` they queue. A quiet first hour has shown the usual latency.
  const live = (knee: number, samples: number, load = Infinity) => {
    for (let i = 0; i < samples; i++) {
      const inFlight = Math.min(allowed, load);
      allowed = limit.add(10 * Math.max(1, inFlight / knee) * (0.9 + 0.2 * random.next()), inFlight);
      assert(allowed >= OPTIONS.min && allowed <= OPTIONS.max);
    }
    return allowed;
  };
  live(64, 500, 20);
  const first = live(64, 500);
  assert(first > 40 && first < 250, `${first} at a knee of 64`);
  const second = live(16, 500);
  assert(second < first, `${second} at a knee of 16, after ${first}`);
});

Deno.test("GradientLimit does not shrink while latency is as ever", () => {
  const limit = new GradientLimit(OPTIONS);
  for (let i = 0; i < 1_000; i++) assert(limit.add(10, 400) === OPTIONS.max);
});
