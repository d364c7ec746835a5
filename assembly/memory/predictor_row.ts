// SPDX-License-Identifier: Apache-2.0
// The learned models of latency.

// Predictor: one recursive least squares model of up to 6 features, written by the control plane alone. The published
// parameters are read under a sequence counter, odd while they change; the covariance is the trainer's.
export const PREDICTOR_BYTES: u32 = 384;
export const FEATURES: u32 = 6;
export const M_SEQUENCE: u32 = 0; // u32
export const M_SAMPLES: u32 = 8; // f64, samples learned from
export const M_THETA: u32 = 40; // f64 × 6
export const M_ERROR: u32 = 16; // f64, moving mean of |error| / value
export const M_RATIO: u32 = 24; // f64, prompt bytes to a token, 0 when not known
export const M_RATE: u32 = 32; // f64, ms that an uncached prompt byte takes over all its endpoints, 0 when not known
export const M_COVARIANCE: u32 = 88; // f64 × 36

// Moving averages of a model's prefill times: f32 ms for each KiB of its prompts, 0 where there is none.
export const AVERAGES: u32 = 1024;
