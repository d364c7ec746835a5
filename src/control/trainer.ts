// SPDX-License-Identifier: Apache-2.0
// Learns from what the workers observed: the one thread that writes predictors and endpoint rates. What lies far off is
// taken as an accident of the moment, unless everything does: then the engines have changed. What was learned belongs to
// the names of models and endpoints, whatever rows they have.

import { GradientLimit } from "../admission/gradient.ts";
import type { Clock } from "../base/clock.ts";
import type { Config } from "../config/schema.ts";
import { DEFAULT_STEP_THETA, DEFAULT_THETA, ENOUGH_SAMPLES } from "../scheduler/ttft.ts";
import type { LearningWeights, PredictorTable } from "../tables/predictor_table.ts";
import type { EndpointTable } from "../tables/endpoint_table.ts";
import type { Sample, SampleReader } from "../tables/sample_ring.ts";
import type { TrainerState } from "./trainer_state.ts";

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
/** Squared relative distance of samples that nothing is known of. */
const FIRST_SPREAD = 0.25;
/** Standard errors by which a rate differs from the mean of its cluster. */
const CERTAINTY = 3;
/** Accidents in a row after which a sample is believed. */
const MAX_ACCIDENTS = 5;

/** Endpoints as the trainer knows them. */
export interface TrainedEndpoints {
  readonly table: EndpointTable;
  /** CLUSTER/HOST:PORT and row of every endpoint. */
  rows(): Iterable<readonly [name: string, row: number]>;
}

/** A ratio of sums in which old samples fade, and how far single samples lie off it. */
class Rate {
  /** Samples that it stands on, and their mean squared relative distance. */
  #samples = 0;
  #spread = FIRST_SPREAD;

  constructor(public ms: number, public bytes: number, readonly keep: number) {}

  get value(): number {
    return this.ms / this.bytes;
  }

  add(ms: number, bytes: number): number {
    const off = ms / (bytes * this.value) - 1;
    this.#spread = this.#spread * this.keep + (1 - this.keep) * off * off;
    this.#samples = this.#samples * this.keep + 1;
    this.ms = this.ms * this.keep + ms;
    this.bytes = this.bytes * this.keep + bytes;
    return this.value;
  }

  /** Whether its difference from another one is more than chance. */
  differsFrom(other: number): boolean {
    return Math.abs(Math.log(this.value / other)) > CERTAINTY * Math.sqrt(this.#spread / Math.max(1, this.#samples));
  }
}

/** What is learned of a model beside its predictors. */
interface Learned {
  readonly name: string;
  accidents: number;
  readonly rate: Rate;
  readonly errors: { error: number; count: number };
}

export interface TrainerParts {
  readonly table: PredictorTable;
  readonly reader: SampleReader;
  readonly config: Config;
  readonly endpoints: TrainedEndpoints;
  readonly clock: Clock;
  readonly state: TrainerState;
}

export class Trainer {
  readonly table: PredictorTable;
  readonly reader: SampleReader;
  config: Config;
  readonly endpoints: TrainedEndpoints;
  readonly clock: Clock;
  readonly state: TrainerState;
  /** By row. */
  readonly #models = new Map<number, Learned>();
  readonly #rates = new Map<number, { readonly name: string; readonly rate: Rate }>();
  /** By cluster; and those of which something was learned since rates were published. */
  readonly #means = new Map<string, Rate>();
  readonly #learned = new Set<string>();
  readonly #limits = new Map<number, GradientLimit>();
  #cancel: () => void = () => {};
  #savedAt = -Infinity;

  constructor(parts: TrainerParts) {
    this.table = parts.table;
    this.reader = parts.reader;
    this.config = parts.config;
    this.endpoints = parts.endpoints;
    this.clock = parts.clock;
    this.state = parts.state;
  }

  /** These are the models from now on; one that comes to a row brings along what was learned of it before. */
  setModels(rows: ReadonlyMap<string, number>): void {
    for (const [name, row] of rows) if (this.#models.get(row)?.name !== name) this.#begin(name, row);
  }

  #begin(name: string, row: number): void {
    const { table, endpoints: { table: { firstRate } } } = this;
    const covariance = Array.from({ length: 36 }, (_, i) => i % 7 === 0 ? 1e4 : 0);
    const fresh = { samples: 0, covariance, bytesPerToken: 0 };
    const known = this.state.modelOf(name);
    table.reset(row);
    table.restore(row, known?.ttft ?? { ...fresh, theta: DEFAULT_THETA });
    table.reset(table.stepRow(row));
    table.restore(table.stepRow(row), known?.step ?? { ...fresh, theta: DEFAULT_STEP_THETA });
    table.setRate(row, firstRate);
    const rate = new Rate(firstRate * FIRST_BYTES, FIRST_BYTES, 1 - 1 / MODEL_RATE_SAMPLES);
    this.#models.set(row, { name, accidents: 0, rate, errors: { error: 0, count: 0 } });
  }

  /** A model's row becomes another's, if `reset` says so: what was learned is kept by its name. */
  forgetModel(row: number, reset: () => boolean): boolean {
    const learned = this.#models.get(row);
    if (learned) this.#keepModel(learned.name, row);
    if (!reset()) return false;
    this.#models.delete(row);
    return true;
  }

  /** Endpoints came or went: those that are new to their row bring along the rate that was learned of them before. */
  endpointsChanged(): void {
    const { table } = this.endpoints;
    const rows = new Map([...this.endpoints.rows()].map(([name, row]) => [row, name]));
    for (const [row, { name }] of this.#rates) {
      if (rows.get(row) === name) continue;
      this.#rates.delete(row);
      this.#limits.delete(row);
    }
    for (const [row, name] of rows) {
      if (this.#rates.has(row)) continue;
      const known = this.state.rateOf(name);
      if (known !== undefined) table.setRate(row, known);
      this.#rates.set(row, {
        name,
        rate: new Rate(table.rate(row) * FIRST_BYTES, FIRST_BYTES, 1 - 1 / RATE_SAMPLES),
      });
    }
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
    if (this.#learned.size > 0) this.#publishRates();
  }

  // Equal engines have learned different rates by what they happened to compute; on an idle fleet the one with the best of
  // luck would draw everything. So a rate that is not surely another one is the mean of its cluster.
  #publishRates(): void {
    const { table } = this.endpoints;
    for (const [row, { name, rate }] of this.#rates) {
      const cluster = clusterOf(name);
      if (!this.#learned.has(cluster)) continue;
      const mean = this.#means.get(cluster)!.value;
      table.setRate(row, rate.differsFrom(mean) ? rate.value : mean);
    }
    this.#learned.clear();
  }

  #learn(sample: Sample): void {
    const { model, promptBytes, promptTokens, cachedTokens, prefillMs } = sample;
    const { table } = this;
    const learned = this.#models.get(model);
    if (learned === undefined || !(promptTokens > 0)) return;
    const ratio = promptBytes / promptTokens;
    const known = table.bytesPerToken(model);
    if (ratio > 0) table.setBytesPerToken(model, known === 0 ? ratio : known + PACE * (ratio - known));
    this.#learnStep(sample);
    this.#observeError(sample, learned);
    if (!(prefillMs >= 0)) return;
    const expected = Math.max(1, table.predict(model, promptTokens, cachedTokens));
    const far = Math.max(5, 10 * table.error(model)) * expected;
    if (table.samples(model) >= ENOUGH_SAMPLES && Math.abs(prefillMs - expected) > far) {
      if (++learned.accidents <= MAX_ACCIDENTS) return;
    } else learned.accidents = 0;
    this.#learnRate(sample, learned, ratio);
    if (this.config.prediction.method === "moving_average") table.learnAverage(model, promptBytes, prefillMs);
    // The prediction is of a mean endpoint: what a slow one takes longer is its own.
    const speed = this.endpoints.table.rate(sample.endpoint) / table.rate(model);
    table.learn(model, { inputTokens: promptTokens, cachedTokens, ms: prefillMs / speed }, this.#weights());
  }

  #learnRate(sample: Sample, learned: Learned, bytesPerToken: number): void {
    const { model, endpoint, promptTokens, cachedTokens, prefillMs } = sample;
    const { least_tokens } = this.config.queue;
    const bytes = Math.max(least_tokens, promptTokens - cachedTokens) * bytesPerToken;
    const { table } = this.endpoints;
    if (prefillMs > SLOWEST * table.rate(endpoint) * bytes + 1_000) return;
    const known = this.#rates.get(endpoint);
    if (known === undefined) return; // it has left meanwhile
    const { name } = known;
    this.state.keepRate(name, known.rate.add(prefillMs, bytes));
    const cluster = clusterOf(name);
    let mean = this.#means.get(cluster);
    if (!mean) {
      const { firstRate } = table;
      this.#means.set(cluster, mean = new Rate(firstRate * FIRST_BYTES, FIRST_BYTES, 1 - 1 / MODEL_RATE_SAMPLES));
    }
    mean.add(prefillMs, bytes);
    this.#learned.add(cluster);
    this.table.setRate(model, learned.rate.add(prefillMs, bytes));
  }

  #learnStep({ model, endpoint, tpotMs, batch, promptTokens }: Sample): void {
    if (!(tpotMs >= 0) || !(batch > 0)) return;
    this.#limit(endpoint, tpotMs);
    this.table.learnStep(model, { batch, contextTokens: promptTokens, ms: tpotMs }, this.#weights());
  }

  #weights(): LearningWeights {
    return { forgetting: this.config.prediction.forgetting, pace: PACE };
  }

  // The limit of requests in flight on an endpoint, where it is to be learned.
  #limit(endpoint: number, tpotMs: number): void {
    const { enabled, ...options } = this.config.admission.adaptive_concurrency;
    if (!enabled) {
      // It may have been on before: what was learned then binds nobody any more.
      for (const row of this.#limits.keys()) this.endpoints.table.limits.set(row, "latency", undefined);
      this.#limits.clear();
      return;
    }
    const limit = this.#limits.get(endpoint) ?? new GradientLimit(options);
    this.#limits.set(endpoint, limit);
    const { table } = this.endpoints;
    table.limits.set(endpoint, "latency", limit.add(tpotMs, table.requests(endpoint)));
  }

  /** Moving median of |predicted / observed − 1| of a model's first tokens, and how many there were. */
  predictionError(model: number): { error: number; count: number } {
    return this.#models.get(model)?.errors ?? { error: 0, count: 0 };
  }

  // A step up or down by a share of itself settles at the median, whatever the outliers.
  #observeError({ predicted }: Sample, { errors }: Learned): void {
    if (!(predicted >= 0)) return;
    const error = Math.abs(predicted - 1);
    errors.count++;
    const step = Math.max(0.02, 1 / errors.count);
    errors.error = errors.count === 1 ? error : errors.error * Math.exp(error > errors.error ? step : -step);
  }

  #keepModel(name: string, row: number): void {
    const { table } = this;
    this.state.keepModel(name, { ttft: table.save(row), step: table.save(table.stepRow(row)) });
  }

  #save(): void {
    this.#savedAt = this.clock.now();
    for (const [row, { name }] of this.#models) this.#keepModel(name, row);
    this.state.save();
  }
}

// Of an endpoint's CLUSTER/HOST:PORT.
function clusterOf(name: string): string {
  return name.slice(0, name.lastIndexOf("/"));
}
