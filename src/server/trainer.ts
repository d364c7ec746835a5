// SPDX-License-Identifier: Apache-2.0
// Learns from what the workers observed: the one thread that writes predictors and endpoint rates. What lies far off is
// taken as an accident of the moment, unless everything does: then the engines have changed. State is kept in a file over
// restarts.

import { z } from "zod";
import { GradientLimit } from "../admission/gradient.ts";
import type { Clock } from "../base/clock.ts";
import type { Config } from "../config/schema.ts";
import { DEFAULT_STEP_THETA, DEFAULT_THETA, ENOUGH_SAMPLES } from "../scheduler/ttft.ts";
import type { PredictorTable } from "../tables/predictor_table.ts";
import type { EndpointTable } from "../tables/endpoint_table.ts";
import type { Sample, SampleReader } from "../tables/sample_ring.ts";
import type { Log } from "../telemetry/log.ts";

const TRAIN_MS = 100;
/** Weight of a sample in the moving means of errors and of bytes to a token. */
const PACE = 0.05;
/** Samples that a rate is the mean of, of an endpoint and of a model. */
const RATE_SAMPLES = 20;
const MODEL_RATE_SAMPLES = 100;
/** Uncached bytes that stand behind the first rate of all. */
const FIRST_BYTES = 8_192;
/** A sample this many times slower than its endpoint is left out of its rate. */
const SLOWEST = 20;
/** Accidents in a row after which a sample is believed. */
const MOST_ACCIDENTS = 5;

const parametersSchema = z.strictObject({
  samples: z.number().min(0),
  theta: z.array(z.number()).length(6),
  covariance: z.array(z.number()).length(36),
  bytesPerToken: z.number().min(0),
});
const stateSchema = z.strictObject({
  version: z.literal(2),
  models: z.record(z.string(), z.strictObject({ ttft: parametersSchema, step: parametersSchema })),
  endpoints: z.record(z.string(), z.number().positive()).describe("ms for an uncached prompt byte"),
});

/** Endpoints as the trainer knows them. */
export interface TrainedEndpoints {
  readonly table: EndpointTable;
  /** CLUSTER/HOST:PORT and row of every endpoint. */
  rows(): Iterable<[name: string, row: number]>;
}

/** A ratio of sums in which old samples fade. */
class Rate {
  constructor(public ms: number, public bytes: number, readonly keep: number) {}

  add(ms: number, bytes: number): number {
    this.ms = this.ms * this.keep + ms;
    this.bytes = this.bytes * this.keep + bytes;
    return this.ms / this.bytes;
  }
}

export class Trainer {
  readonly #accidents: number[];
  readonly #rates = new Map<number, Rate>();
  readonly #modelRates: Rate[];
  readonly #limits = new Map<number, GradientLimit>();
  readonly #errors: { error: number; count: number }[];
  #cancel: () => void = () => {};
  #savedAt = -Infinity;

  constructor(
    readonly table: PredictorTable,
    readonly reader: SampleReader,
    readonly config: Config,
    readonly models: readonly string[],
    readonly endpoints: TrainedEndpoints,
    readonly clock: Clock,
    readonly log: Log,
  ) {
    this.#accidents = models.map(() => 0);
    this.#errors = models.map(() => ({ error: 0, count: 0 }));
    const covariance = Array.from({ length: 36 }, (_, i) => i % 7 === 0 ? 1e4 : 0);
    models.forEach((_, row) => {
      table.reset(row);
      table.restore(row, { samples: 0, theta: DEFAULT_THETA, covariance, bytesPerToken: 0 });
      table.reset(table.stepRow(row));
      table.restore(table.stepRow(row), { samples: 0, theta: DEFAULT_STEP_THETA, covariance, bytesPerToken: 0 });
    });
    const { firstRate } = endpoints.table;
    this.#modelRates = models.map(() => new Rate(firstRate * FIRST_BYTES, FIRST_BYTES, 1 - 1 / MODEL_RATE_SAMPLES));
    models.forEach((_, row) => table.setRate(row, firstRate));
    this.#restore();
  }

  start(): void {
    const tick = (): void => {
      this.train();
      if (this.clock.now() - this.#savedAt > this.config.prediction.save_interval_ms) this.#save();
      this.#cancel = this.clock.after(TRAIN_MS, tick);
    };
    tick();
  }

  stop(): void {
    this.#cancel();
    this.train();
    this.#save();
  }

  /** Learns from everything that has been observed since the last time. */
  train(): void {
    for (const sample of this.reader.take()) this.#learn(sample);
  }

  #learn(sample: Sample): void {
    const { model, promptBytes, promptTokens, cachedTokens, prefillMs } = sample;
    const { table } = this;
    if (!(model < this.models.length) || !(promptTokens > 0)) return;
    const ratio = promptBytes / promptTokens;
    const known = table.bytesPerToken(model);
    if (ratio > 0) table.setBytesPerToken(model, known === 0 ? ratio : known + PACE * (ratio - known));
    this.#learnStep(sample);
    this.#observeError(sample);
    if (!(prefillMs >= 0)) return;
    const expected = Math.max(1, table.predict(model, promptTokens, cachedTokens));
    const far = Math.max(5, 10 * table.error(model)) * expected;
    if (table.samples(model) >= ENOUGH_SAMPLES && Math.abs(prefillMs - expected) > far) {
      if (++this.#accidents[model] <= MOST_ACCIDENTS) return;
    } else this.#accidents[model] = 0;
    this.#learnRate(sample, ratio);
    if (this.config.prediction.method === "moving_average") table.learnAverage(model, promptBytes, prefillMs);
    // The prediction is of a mean endpoint: what a slow one takes longer is its own.
    const speed = this.endpoints.table.rate(sample.endpoint) / table.rate(model);
    table.learn(model, promptTokens, cachedTokens, prefillMs / speed, this.config.prediction.forgetting, PACE);
  }

  #learnRate({ model, endpoint, promptTokens, cachedTokens, prefillMs }: Sample, bytesPerToken: number): void {
    const { least_tokens } = this.config.queue;
    const bytes = Math.max(least_tokens, promptTokens - cachedTokens) * bytesPerToken;
    const { table } = this.endpoints;
    if (prefillMs > SLOWEST * table.rate(endpoint) * bytes + 1_000) return;
    let rate = this.#rates.get(endpoint);
    if (rate === undefined) {
      rate = new Rate(table.rate(endpoint) * FIRST_BYTES, FIRST_BYTES, 1 - 1 / RATE_SAMPLES);
      this.#rates.set(endpoint, rate);
    }
    table.setRate(endpoint, rate.add(prefillMs, bytes));
    this.table.setRate(model, this.#modelRates[model].add(prefillMs, bytes));
  }

  #learnStep({ model, endpoint, tpotMs, batch, promptTokens }: Sample): void {
    if (!(tpotMs >= 0) || !(batch > 0)) return;
    this.#limit(endpoint, tpotMs);
    this.table.learnStep(model, batch, promptTokens, tpotMs, this.config.prediction.forgetting, PACE);
  }

  // The limit of requests in flight on an endpoint, where it is to be learned.
  #limit(endpoint: number, tpotMs: number): void {
    const { enabled, ...options } = this.config.admission.adaptive_concurrency;
    if (!enabled) return;
    const limit = this.#limits.get(endpoint) ?? new GradientLimit(options);
    this.#limits.set(endpoint, limit);
    const { table } = this.endpoints;
    table.setLimit(endpoint, limit.add(tpotMs, table.requests(endpoint)));
  }

  /** Moving median of |predicted / observed − 1| of a model's first tokens, and how many there were. */
  predictionError(model: number): { error: number; count: number } {
    return this.#errors[model];
  }

  // A step up or down by a share of itself settles at the median, whatever the outliers.
  #observeError({ model, predicted }: Sample): void {
    if (!(predicted >= 0)) return;
    const errors = this.#errors[model];
    const error = Math.abs(predicted - 1);
    errors.count++;
    const step = Math.max(0.02, 1 / errors.count);
    errors.error = errors.count === 1 ? error : errors.error * Math.exp(error > errors.error ? step : -step);
  }

  #restore(): void {
    const { state_file } = this.config.prediction;
    if (state_file === undefined) return;
    try {
      const { models, endpoints } = stateSchema.parse(JSON.parse(Deno.readTextFileSync(state_file)));
      this.models.forEach((name, row) => {
        if (!models[name]) return;
        this.table.restore(row, models[name].ttft);
        this.table.restore(this.table.stepRow(row), models[name].step);
      });
      for (const [name, row] of this.endpoints.rows()) {
        if (endpoints[name]) this.endpoints.table.setRate(row, endpoints[name]);
      }
    } catch (error) {
      if (error instanceof Deno.errors.NotFound) return;
      this.log.warn("the predictors' state cannot be read: they start anew", {
        file: state_file,
        error: String(error),
      });
    }
  }

  // Written beside and renamed, so that a crash leaves the old state or the new one.
  #save(): void {
    this.#savedAt = this.clock.now();
    const { state_file } = this.config.prediction;
    if (state_file === undefined) return;
    const { table } = this;
    const models = Object.fromEntries(
      this.models.map((name, row) => [name, { ttft: table.save(row), step: table.save(table.stepRow(row)) }]),
    );
    const endpoints = Object.fromEntries(
      [...this.endpoints.rows()].map(([name, row]) => [name, this.endpoints.table.rate(row)]),
    );
    try {
      Deno.writeTextFileSync(`${state_file}.new`, JSON.stringify({ version: 2, models, endpoints }));
      Deno.renameSync(`${state_file}.new`, state_file);
    } catch (error) {
      this.log.warn("the predictors' state cannot be saved", { file: state_file, error: String(error) });
    }
  }
}
