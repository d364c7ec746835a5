// SPDX-License-Identifier: Apache-2.0
// Learns from what the workers observed: the one thread that writes predictors. What lies far off is taken as an accident
// of the moment, unless everything does: then the engines have changed. State is kept in a file over restarts.

import { z } from "zod";
import type { Clock } from "../base/clock.ts";
import type { Config } from "../config/schema.ts";
import { DEFAULT_THETA, ENOUGH_SAMPLES } from "../scheduler/ttft.ts";
import type { PredictorTable } from "../tables/predictor_table.ts";
import type { SampleReader, TtftSample } from "../tables/sample_ring.ts";
import type { Log } from "../telemetry/log.ts";

const TRAIN_MS = 100;
/** Weight of a sample in the moving means of errors and of bytes to a token. */
const PACE = 0.05;
/** Accidents in a row after which a sample is believed. */
const MOST_ACCIDENTS = 5;

const stateSchema = z.strictObject({
  version: z.literal(1),
  models: z.record(
    z.string(),
    z.strictObject({
      samples: z.number().min(0),
      theta: z.array(z.number()).length(6),
      covariance: z.array(z.number()).length(36),
      bytesPerToken: z.number().min(0),
    }),
  ),
});

export class Trainer {
  readonly #accidents: number[];
  #cancel: () => void = () => {};
  #savedAt = -Infinity;

  constructor(
    readonly table: PredictorTable,
    readonly reader: SampleReader,
    readonly config: Config,
    readonly models: readonly string[],
    readonly clock: Clock,
    readonly log: Log,
  ) {
    this.#accidents = models.map(() => 0);
    const covariance = Array.from({ length: 36 }, (_, i) => i % 7 === 0 ? 1e4 : 0);
    models.forEach((_, row) => {
      table.reset(row);
      table.restore(row, { samples: 0, theta: DEFAULT_THETA, covariance, bytesPerToken: 0 });
    });
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

  #learn({ model, promptBytes, promptTokens, cachedTokens, ttftMs }: TtftSample): void {
    const { table } = this;
    if (model >= this.models.length || !(promptTokens > 0) || !(ttftMs >= 0)) return;
    const ratio = promptBytes / promptTokens;
    const known = table.bytesPerToken(model);
    if (ratio > 0) table.setBytesPerToken(model, known === 0 ? ratio : known + PACE * (ratio - known));
    const expected = Math.max(1, table.predict(model, promptTokens, cachedTokens));
    const far = Math.max(5, 10 * table.error(model)) * expected;
    if (table.samples(model) >= ENOUGH_SAMPLES && Math.abs(ttftMs - expected) > far) {
      if (++this.#accidents[model] <= MOST_ACCIDENTS) return;
    } else this.#accidents[model] = 0;
    table.learn(model, promptTokens, cachedTokens, ttftMs, this.config.prediction.forgetting, PACE);
  }

  #restore(): void {
    const { state_file } = this.config.prediction;
    if (state_file === undefined) return;
    try {
      const { models } = stateSchema.parse(JSON.parse(Deno.readTextFileSync(state_file)));
      this.models.forEach((name, row) => {
        if (models[name]) this.table.restore(row, models[name]);
      });
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
    const models = Object.fromEntries(this.models.map((name, row) => [name, this.table.save(row)]));
    try {
      Deno.writeTextFileSync(`${state_file}.new`, JSON.stringify({ version: 1, models }));
      Deno.renameSync(`${state_file}.new`, state_file);
    } catch (error) {
      this.log.warn("the predictors' state cannot be saved", { file: state_file, error: String(error) });
    }
  }
}
