// SPDX-License-Identifier: Apache-2.0
import { assert, assertAlmostEquals, assertEquals } from "@std/assert";
import { ManualClock } from "../../src/base/clock.ts";
import { parseConfig } from "../../src/config/load.ts";
import { Trainer } from "../../src/control/trainer.ts";
import { TrainerState } from "../../src/control/trainer_state.ts";
import { EndpointTable } from "../../src/tables/endpoint_table.ts";
import { PredictorTable } from "../../src/tables/predictor_table.ts";
import { type Sample, SampleReader, SampleWriter } from "../../src/tables/sample_ring.ts";
import { freshKernels } from "../support/kernel.ts";
import { KeptLog } from "../support/parts.ts";
import { Random } from "../support/seed.ts";

const SAMPLE: Sample = {
  model: 0,
  endpoint: 0,
  promptBytes: 4_000,
  promptTokens: 1_000,
  cachedTokens: 0,
  prefillMs: 200,
  tpotMs: NaN,
  batch: 1,
  predicted: NaN,
};

function parts(config: Record<string, unknown> = {}) {
  const [kernel, worker] = freshKernels();
  const clock = new ManualClock();
  const table = new EndpointTable(kernel);
  const names = new Map([["c/a:1", table.add(0, { hostname: "a", port: 1 }, 100, 0)]]);
  const state = new TrainerState(undefined, new KeptLog());
  const predictors = new PredictorTable(kernel);
  const trainer = new Trainer({
    table: predictors,
    reader: new SampleReader(kernel),
    config: parseConfig(config),
    endpoints: { table, rows: () => names },
    clock,
    state,
  });
  trainer.setModels(new Map([["m", 0]]));
  trainer.endpointsChanged();
  const writer = new SampleWriter(worker);
  const [row] = names.values();
  const observe = (more: Partial<Sample> = {}, times = 1) => {
    for (let i = 0; i < times; i++) writer.write({ ...SAMPLE, endpoint: row, ...more });
  };
  return { clock, table, names, state, predictors, trainer, observe, row };
}

Deno.test("Trainer: rates, bytes to a token and the model are learned ten times a second, and no more after stop", () => {
  const { clock, table, predictors, trainer, observe, row } = parts();
  trainer.start();
  observe({}, 50);
  clock.advance(99);
  assertEquals(predictors.samples(0), 0);
  clock.advance(1);
  assertEquals(predictors.samples(0), 50);
  assertEquals(predictors.bytesPerToken(0), 4);
  assertAlmostEquals(table.rate(row), 200 / 4_000, 0.005);
  observe();
  trainer.stop();
  assertEquals(predictors.samples(0), 51, "what is left is learned at the stop");
  observe();
  clock.advance(10_000);
  assertEquals(predictors.samples(0), 51);
});

Deno.test("Trainer: a few samples far off are accidents, many in a row are believed", () => {
  const { table, predictors, trainer, observe, row } = parts();
  observe({}, 60);
  trainer.train();
  const [rate, samples] = [table.rate(row), predictors.samples(0)];
  observe({ prefillMs: 900_000 }, 5);
  trainer.train();
  assertEquals([table.rate(row), predictors.samples(0)], [rate, samples]);
  observe({}, 1);
  observe({ prefillMs: 3_000 }, 5);
  trainer.train();
  assertEquals(predictors.samples(0), samples + 1, "a good one between them starts the count anew");
  observe({ prefillMs: 3_000 }, 3);
  trainer.train();
  assert(predictors.samples(0) > samples + 1);
});

Deno.test("Trainer: samples of a model that is gone, of an endpoint that has left, or without tokens teach nothing", () => {
  const { names, predictors, trainer, observe, row, state } = parts();
  observe({ model: 3 });
  observe({ promptTokens: 0 });
  observe({ promptTokens: NaN });
  trainer.train();
  assertEquals(predictors.samples(0), 0);
  names.clear();
  trainer.endpointsChanged();
  observe({ endpoint: row });
  trainer.train();
  assertEquals(state.rateOf("c/a:1"), undefined);
});

Deno.test("Trainer: what was learned belongs to the name: it comes along to another row", () => {
  const { table, names, predictors, trainer, observe, row, state } = parts();
  observe({}, 60);
  trainer.train();
  const rate = state.rateOf("c/a:1")!;
  const theta = predictors.save(0).theta;
  trainer.forgetModel(0, () => true);
  trainer.setModels(new Map([["other", 0], ["m", 2]]));
  assertEquals([predictors.samples(0), predictors.samples(2)], [0, 60]);
  assertEquals(predictors.save(2).theta, theta);
  const again = table.add(0, { hostname: "b", port: 1 }, 100, 0);
  names.clear();
  names.set("c/b:1", row).set("c/a:1", again);
  trainer.endpointsChanged();
  assertAlmostEquals(table.rate(again), rate, 1e-6);
});

Deno.test("Trainer: endpoints have one rate until their difference is more than chance", () => {
  const random = new Random(1);
  const { table, names, trainer, observe, row } = parts();
  const [twin, slow] = [2, 3].map((port) => table.add(0, { hostname: "a", port }, 100, 0));
  names.set("c/a:2", twin).set("c/a:3", slow);
  trainer.endpointsChanged();
  const noisy = () => 200 * (0.6 + 0.8 * random.next());
  for (let i = 0; i < 60; i++) {
    for (const endpoint of [row, twin]) observe({ endpoint, prefillMs: noisy() });
    trainer.train();
  }
  assertEquals(table.rate(row), table.rate(twin), "equal engines, whatever they happened to compute");
  assertEquals(table.rate(slow), table.rate(row), "nothing is known of the third");
  for (let i = 0; i < 60; i++) {
    for (const endpoint of [row, twin]) observe({ endpoint, prefillMs: noisy() });
    observe({ endpoint: slow, prefillMs: 3 * noisy() });
    trainer.train();
  }
  assert(table.rate(slow) > 2 * Math.max(table.rate(row), table.rate(twin)));
});

Deno.test("Trainer: a learned limit of concurrency binds nobody once it is not to be learned any more", () => {
  const on = { admission: { adaptive_concurrency: { enabled: true, min: 2, max: 8 } } };
  const { table, trainer, observe, row } = parts(on);
  observe({ tpotMs: 10 }, 20);
  trainer.train();
  assert(table.limits.of(row, "latency")! <= 8);
  trainer.config = parseConfig({});
  observe({ tpotMs: 10 });
  trainer.train();
  assertEquals(table.limits.of(row, "latency"), undefined);
});

Deno.test("Trainer: the error of predictions is a moving median that single outliers do not move far", () => {
  const { trainer, observe } = parts();
  assertEquals(trainer.predictionError(0), { error: 0, count: 0 });
  observe({ predicted: 1.2 }, 200);
  observe({ predicted: 50 }, 3);
  trainer.train();
  const { error, count } = trainer.predictionError(0);
  assertEquals(count, 203);
  assert(error > 0.15 && error < 0.25, `${error}`);
});
