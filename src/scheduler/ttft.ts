// SPDX-License-Identifier: Apache-2.0
// Predicted time to first token of a prompt, by the model's learned predictor. A new model starts from the fit to 39
// measured samples, and until it has seen enough requests of its own its predictions have the floor of that fit.

import type { PredictorTable } from "../tables/predictor_table.ts";

/** a to f of `ms = a·input² + b·cached² + c·input·cached + d·input + e·cached + f`, in thousands of tokens. */
export const DEFAULT_THETA = [4.449994511, -8.410005423, -3.189998102, 278.000152256, -50.199801665, 37.198550118];
/** Decode step of a model that nothing is known of: ms, and for each request in the batch. */
export const DEFAULT_STEP_THETA = [10.6, 0.42, 0, 0, 0, 0];
const LEAST_MS = 100;
/** Requests after which a model's own experience counts alone. */
export const ENOUGH_SAMPLES = 30;

export class TtftPredictor {
  /** @param bytesPerToken Until a model's own ratio is known. */
  constructor(readonly table: PredictorTable, readonly bytesPerToken: number) {}

  /** Milliseconds from being sent to the first token, of a prompt of which `cachedBytes` are held by its engine. */
  predictMs(model: number, promptBytes: number, cachedBytes = 0): number {
    const ratio = this.table.bytesPerToken(model) || this.bytesPerToken;
    const ms = this.table.predict(model, promptBytes / ratio, Math.min(promptBytes, cachedBytes) / ratio);
    return Math.max(this.table.samples(model) < ENOUGH_SAMPLES ? LEAST_MS : 1, ms);
  }
}
