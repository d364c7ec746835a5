// SPDX-License-Identifier: Apache-2.0
// What was learned, by name, in a file: over restarts, and over the times that a model or an endpoint is away.

import { z } from "zod";
import type { PredictorState } from "../tables/predictor_table.ts";
import type { Log } from "../telemetry/log.ts";

/** Names that are away and still kept, of models and of endpoints. */
const KEPT_MODELS = 1_024;
const KEPT_ENDPOINTS = 16_384;

const parametersSchema = z.strictObject({
  samples: z.number().min(0),
  theta: z.array(z.number()).length(6),
  covariance: z.array(z.number()).length(36),
  bytesPerToken: z.number().min(0),
});
const modelSchema = z.strictObject({ ttft: parametersSchema, step: parametersSchema });
const stateSchema = z.strictObject({
  version: z.literal(2),
  models: z.record(z.string(), modelSchema),
  endpoints: z.record(z.string(), z.number().positive()).describe("ms for an uncached prompt byte"),
});

export interface ModelState {
  readonly ttft: PredictorState;
  readonly step: PredictorState;
}

export class TrainerState {
  readonly #models = new Map<string, ModelState>();
  readonly #endpoints = new Map<string, number>();

  /** @param file Undefined: kept in this process alone. */
  constructor(readonly file: string | undefined, readonly log: Log) {
    if (file === undefined) return;
    try {
      const { models, endpoints } = stateSchema.parse(JSON.parse(Deno.readTextFileSync(file)));
      for (const [name, state] of Object.entries(models)) this.#models.set(name, state);
      for (const [name, rate] of Object.entries(endpoints)) this.#endpoints.set(name, rate);
    } catch (error) {
      if (error instanceof Deno.errors.NotFound) return;
      log.warn("the predictors' state cannot be read: they start anew", { file, error: String(error) });
    }
  }

  modelOf(name: string): ModelState | undefined {
    return this.#models.get(name);
  }

  /** Ms for an uncached prompt byte of CLUSTER/HOST:PORT. */
  rateOf(name: string): number | undefined {
    return this.#endpoints.get(name);
  }

  keepModel(name: string, state: ModelState): void {
    keep(this.#models, name, state, KEPT_MODELS);
  }

  keepRate(name: string, rate: number): void {
    keep(this.#endpoints, name, rate, KEPT_ENDPOINTS);
  }

  // Written beside and renamed, so that a crash leaves the old state or the new one.
  save(): void {
    const { file } = this;
    if (file === undefined) return;
    const state = {
      version: 2,
      models: Object.fromEntries(this.#models),
      endpoints: Object.fromEntries(this.#endpoints),
    };
    try {
      Deno.writeTextFileSync(`${file}.new`, JSON.stringify(state));
      Deno.renameSync(`${file}.new`, file);
    } catch (error) {
      this.log.warn("the predictors' state cannot be saved", { file, error: String(error) });
    }
  }
}

// The one kept last comes last, and the first goes when there are too many.
function keep<T>(map: Map<string, T>, name: string, value: T, max: number): void {
  map.delete(name);
  map.set(name, value);
  if (map.size > max) map.delete(map.keys().next().value!);
}
