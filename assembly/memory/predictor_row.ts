// SPDX-License-Identifier: Apache-2.0
// The learned models of latency: one recursive least squares model of up to FEATURES features a row, written by the control
// plane alone. The published parameters are read under a sequence counter, odd while they change; the covariance is the
// trainer's. The fields are followed by both, in f64.

@unmanaged
export class PredictorRow {
  sequence: u32;
  samples: f64; // learned from
  error: f64; // moving mean of |error| / value
  ratio: f64; // prompt bytes to a token, 0 when not known
  rate: f64; // ms that an uncached prompt byte takes over all its endpoints, 0 when not known
}

export const PREDICTOR_SEQUENCE: u32 = offsetof<PredictorRow>("sequence");
export const PREDICTOR_SAMPLES: u32 = offsetof<PredictorRow>("samples");
export const PREDICTOR_ERROR: u32 = offsetof<PredictorRow>("error");
export const PREDICTOR_RATIO: u32 = offsetof<PredictorRow>("ratio");
export const PREDICTOR_RATE: u32 = offsetof<PredictorRow>("rate");

export const FEATURES: u32 = 6;
export const PREDICTOR_THETA: u32 = offsetof<PredictorRow>();
export const PREDICTOR_COVARIANCE: u32 = PREDICTOR_THETA + FEATURES * 8;
export const PREDICTOR_BYTES: u32 = 384;

/** Moving averages of a model's prefill times: f32 ms for each KiB of its prompts, 0 where there is none. */
export const AVERAGES: u32 = 1024;
