// SPDX-License-Identifier: Apache-2.0
import { assert, assertAlmostEquals, assertEquals } from "@std/assert";
import { parseConfig } from "../../src/config/load.ts";
import { PredictorTable } from "../../src/tables/predictor_table.ts";
import { predictByAverages, writeQueueParameters } from "../../src/tables/queue_parameters.ts";
import { freshKernel, freshKernels } from "../support/kernel.ts";
import { Random, seed } from "../support/seed.ts";
import { sharedText } from "../support/shared.ts";
import { TwinRls } from "./twin_rls.ts";

const STEADY = { forgetting: 1, pace: 0.1 };
const FORGETTING = { forgetting: 0.98, pace: 0.05 };

interface Sample {
  input_tokens: number;
  cached_tokens: number;
  ttft_ms: number;
}

Deno.test("learn gives the published predictions for the published samples", () => {
  const text = sharedText("vectors/ttft_rls.json");
  if (text === undefined) return;
  const { samples, after } = JSON.parse(text) as {
    samples: Sample[];
    after: { samples_seen: number; predictions: { input_tokens: number; cached_tokens: number; ttft_ms: number }[] }[];
  };
  const table = new PredictorTable(freshKernel());
  table.reset(1);
  let learned = 0;
  let checked = 0;
  for (const { samples_seen: count, predictions } of after) {
    for (; learned < count; learned++) {
      const { input_tokens, cached_tokens, ttft_ms } = samples[learned];
      table.learn(1, { inputTokens: input_tokens, cachedTokens: cached_tokens, ms: ttft_ms }, STEADY);
    }
    for (const { input_tokens, cached_tokens, ttft_ms } of predictions) {
      const predicted = table.predict(1, input_tokens, cached_tokens);
      assert(Math.abs(predicted - ttft_ms) <= 1e-6 * Math.abs(ttft_ms), `${predicted} for ${ttft_ms}`);
      checked++;
    }
  }
  assert(checked > 0);
  assertEquals(table.samples(1), learned);
});

Deno.test("learn agrees with its twin on random samples, forgetting included; rows do not touch each other", () => {
  const random = new Random(seed);
  const table = new PredictorTable(freshKernel());
  for (const row of [0, 1, 2, 3]) table.reset(row);
  const twins = [0, 1, 2, 3].map(() => new TwinRls(6, 1e6));
  for (let i = 0; i < 3_000; i++) {
    const row = random.below(4);
    const input = random.below(30_000);
    const cached = random.below(input + 1);
    const ms = 20 + input * 0.12 - cached * 0.1 + random.below(10);
    const [a, b] = [input / 1_000, cached / 1_000];
    const x = [a * a, b * b, a * b, a, b, 1];
    const forgetting = row % 2 === 0 ? 1 : 0.995;
    const expected = twins[row].learn(x, ms, forgetting);
    const predicted = table.learn(row, { inputTokens: input, cachedTokens: cached, ms }, { forgetting, pace: 0.05 });
    assert(Math.abs(predicted - expected) <= 1e-5 * Math.max(1, Math.abs(expected)), `${predicted} for ${expected}`);
  }
  assert(table.error(0) < 0.2, `${table.error(0)}`);
});

Deno.test("a model that forgets follows a change of speed; one without new information stays bounded", () => {
  const random = new Random(seed);
  const table = new PredictorTable(freshKernel());
  table.reset(0);
  const phase = (msPerToken: number, samples: number) => {
    for (let i = 0; i < samples; i++) {
      const input = 100 + random.below(20_000);
      table.learn(0, { inputTokens: input, cachedTokens: 0, ms: 30 + input * msPerToken }, FORGETTING);
    }
    return table.predict(0, 8_000, 0);
  };
  assertAlmostEquals(phase(0.125, 400), 1_030, 10);
  assertAlmostEquals(phase(0.25, 600), 2_030, 0.05 * 2_030);
  const same = { inputTokens: 5_000, cachedTokens: 0, ms: 1_280 };
  for (let i = 0; i < 100_000; i++) table.learn(0, same, FORGETTING);
  assertAlmostEquals(table.predict(0, 5_000, 0), 1_280, 1);
  assert(table.save(0).covariance.every(Number.isFinite));
});

Deno.test("what is saved predicts the same elsewhere; another instance reads what one has learned", () => {
  const [a, b] = freshKernels().map((kernel) => new PredictorTable(kernel));
  a.reset(2);
  for (let i = 1; i < 200; i++) a.learn(2, { inputTokens: i * 50, cachedTokens: i * 10, ms: i * 7 }, STEADY);
  a.setBytesPerToken(2, 3.7);
  assertEquals(b.predict(2, 3_000, 500), a.predict(2, 3_000, 500));
  const other = new PredictorTable(freshKernel());
  other.reset(0);
  other.restore(0, JSON.parse(JSON.stringify(a.save(2))));
  assertEquals(other.predict(0, 3_000, 500), a.predict(2, 3_000, 500));
  assertEquals([other.samples(0), other.bytesPerToken(0)], [199, 3.7]);
});

Deno.test("moving averages: by KiB of the prompt, 0.9 of the old and 0.1 of the new, looked up downwards", () => {
  const kernel = freshKernel();
  const k = kernel.exports;
  predictByAverages(kernel);
  assertEquals(k.predictTtft(0, 5_000, 0), 500);
  k.learnAverage(0, 2_100, 100);
  assertEquals(k.predictTtft(0, 9_000, 0), 100);
  assertEquals(k.predictTtft(0, 2_000, 0), 500, "nothing below");
  assertEquals(k.predictTtft(1, 9_000, 0), 500, "another model");
  k.learnAverage(0, 2_900, 200);
  assertAlmostEquals(k.predictTtft(0, 2_500, 0), 110, 1e-3);
  k.learnAverage(0, 1e9, 70);
  assertEquals(k.predictTtft(0, 2e9, 0), 70);
});

Deno.test("predictTtft takes the config's bytes to a token until the model's own ratio is known", () => {
  const predictMs = (configured: number, learned: number, bytes: number) => {
    const kernel = freshKernel();
    writeQueueParameters(kernel, parseConfig({}).queue, configured);
    const state = {
      samples: 9,
      theta: [4, -8, -3, 280, -50, 37],
      covariance: Array(36).fill(0),
      bytesPerToken: learned,
    };
    new PredictorTable(kernel).restore(0, state);
    return kernel.exports.predictTtft(0, bytes, bytes / 4);
  };
  assertEquals(predictMs(4, 0, 16_000), 4 * 16 - 8 - 3 * 4 + 280 * 4 - 50 + 37);
  assertEquals(predictMs(2, 0, 8_000), predictMs(4, 0, 16_000));
  assertEquals(predictMs(2, 4, 16_000), predictMs(4, 0, 16_000), "what was learned counts more");
});
