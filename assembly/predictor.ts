// SPDX-License-Identifier: Apache-2.0
// Recursive least squares: a linear model that learns from one sample at a time,
//
//   s = xᵀ·P·x,  θ += P·x · (y − θᵀ·x) / (1 + s),  P −= (P·x)·(P·x)ᵀ / (1 / ε + s),  ε = λ − (1 − λ) / s
//
// with x scaled to the order of 1 by the caller. With λ = 1 this is the plain recursion. With λ < 1 old samples are
// forgotten only in the direction of new ones (Bittanti, Bolzern and Campi, 1990): P stays bounded where samples tell
// nothing new, and goes on learning where they do. P stays symmetric because only its upper half is computed.

import { header } from "./memory/header";
import { averageBase, histogram, predictorBase, predictors, scratch } from "./memory/plan";
import {
  AVERAGES,
  FEATURES,
  PREDICTOR_BYTES,
  PREDICTOR_COVARIANCE,
  PREDICTOR_SEQUENCE,
  PREDICTOR_THETA,
  PredictorRow,
} from "./memory/predictor_row";

@inline
function rowAt(row: u32): usize {
  return predictorBase + <usize>row * PREDICTOR_BYTES;
}

// The features of the sample or question at hand: the caller writes them where a pick has its histogram.
@inline
function feature(i: u32): f64 {
  return load<f64>(scratch + histogram + (<usize>i << 3));
}

// P·x of the sample at hand, behind the features.
@inline
function product(i: u32): usize {
  return scratch + histogram + (<usize>(FEATURES + i) << 3);
}

@inline
function setFeature(i: u32, value: f64): void {
  store<f64>(scratch + histogram + (<usize>i << 3), value);
}

/** Predicted ms from the beginning of a prefill to the first token, of a prompt of which `cached` bytes are held. */
export function predictTtft(model: u32, bytes: f64, cached: f64): f64 {
  if (header().averages != 0) return average(model, bytes);
  const known = changetype<PredictorRow>(rowAt(model)).ratio;
  const thousand: f64 = 1000 * (known > 0 ? known : <f64>header().bytesPerToken);
  const input = bytes / thousand;
  const held = min(cached, bytes) / thousand;
  setFeature(0, input * input);
  setFeature(1, held * held);
  setFeature(2, input * held);
  setFeature(3, input);
  setFeature(4, held);
  setFeature(5, 1);
  return max<f64>(1, predict(model));
}

/** Predicted ms where nothing is known. */
const UNKNOWN_MS: f64 = 500;

// The average of the prompt's KiB, or of the next lower one that has any.
function average(model: u32, bytes: f64): f64 {
  const table = averageBase + <usize>model * AVERAGES * 4;
  for (let kib = <i32>min<f64>(bytes / 1024, <f64>(AVERAGES - 1)); kib >= 0; kib--) {
    const ms = load<f32>(table + (<usize>kib << 2));
    if (ms > 0) return <f64>ms;
  }
  return UNKNOWN_MS;
}

/** Takes a prefill time into the average of its prompt's KiB: 0.9 of what it was and 0.1 of this. One thread alone. */
export function learnAverage(model: u32, bytes: f64, ms: f64): void {
  const kib = <u32>min<f64>(bytes / 1024, <f64>(AVERAGES - 1));
  const at = averageBase + <usize>model * AVERAGES * 4 + (<usize>kib << 2);
  const before = <f64>load<f32>(at);
  store<f32>(at, <f32>max<f64>(0.001, before > 0 ? 0.9 * before + 0.1 * ms : ms));
}

/** Ms that an uncached prompt byte of a model takes, over all its endpoints. */
export function rateOf(model: u32): f64 {
  return changetype<PredictorRow>(rowAt(model)).rate;
}

/** Parameter of a model's decode step: ms = θ₀ + θ₁ · batch + θ₂ · batch · thousands of tokens of context. */
export function stepParameter(model: u32, i: u32): f64 {
  return load<f64>(rowAt(predictors / 2 + model) + PREDICTOR_THETA + (<usize>i << 3));
}

/** Sets a row to 0, unseen by readers: without samples, parameters and covariance. */
export function predictorClear(row: u32): void {
  const at = rowAt(row);
  atomic.add<u32>(at, 1, PREDICTOR_SEQUENCE);
  memory.fill(at + 4, 0, PREDICTOR_BYTES - 4);
  atomic.add<u32>(at, 1, PREDICTOR_SEQUENCE);
}

/** Starts a row anew: no samples, parameters 0, covariance `variance` times the identity. */
export function predictorReset(row: u32, variance: f64): void {
  predictorClear(row);
  const covariance = rowAt(row) + PREDICTOR_COVARIANCE;
  for (let i: u32 = 0; i < FEATURES; i++) store<f64>(covariance + (<usize>(i * FEATURES + i) << 3), variance);
}

/** θᵀ·x of the features in scratch, by parameters that belong together. */
export function predict(row: u32): f64 {
  const at = rowAt(row);
  let sum: f64;
  let before: u32;
  do {
    before = atomic.load<u32>(at, PREDICTOR_SEQUENCE);
    sum = 0;
    for (let i: u32 = 0; i < FEATURES; i++) sum += feature(i) * load<f64>(at + PREDICTOR_THETA + (<usize>i << 3));
  } while ((before & 1) != 0 || atomic.load<u32>(at, PREDICTOR_SEQUENCE) != before);
  return sum;
}

/**
 * Learns that the features in scratch, which are not all 0, came with `value`. `forgetting` is λ, above 0 and at most 1;
 * `pace` the weight of this sample in the moving mean of errors. One thread alone. Returns what would have been predicted.
 */
export function learn(row: u32, value: f64, forgetting: f64, pace: f64): f64 {
  const at = rowAt(row);
  const predictor = changetype<PredictorRow>(at);
  const covariance = at + PREDICTOR_COVARIANCE;
  let spread: f64 = 0;
  for (let i: u32 = 0; i < FEATURES; i++) {
    let sum: f64 = 0;
    for (let j: u32 = 0; j < FEATURES; j++) sum += load<f64>(covariance + (<usize>(i * FEATURES + j) << 3)) * feature(j);
    store<f64>(product(i), sum);
    spread += sum * feature(i);
  }
  const predicted = predict(row);
  const error = value - predicted;
  const gain = 1 / (1 + spread);
  const epsilon = forgetting - (1 - forgetting) / spread;
  // Where ε is 0, what is forgotten is just what is learned.
  const shrink: f64 = epsilon == 0 ? 0 : 1 / (1 / epsilon + spread);

  atomic.add<u32>(at, 1, PREDICTOR_SEQUENCE);
  for (let i: u32 = 0; i < FEATURES; i++) {
    const theta = at + PREDICTOR_THETA + (<usize>i << 3);
    store<f64>(theta, load<f64>(theta) + load<f64>(product(i)) * gain * error);
  }
  atomic.add<u32>(at, 1, PREDICTOR_SEQUENCE);

  for (let i: u32 = 0; i < FEATURES; i++) {
    for (let j: u32 = i; j < FEATURES; j++) {
      const cell = covariance + (<usize>(i * FEATURES + j) << 3);
      const next = load<f64>(cell) - load<f64>(product(i)) * load<f64>(product(j)) * shrink;
      store<f64>(cell, next);
      store<f64>(covariance + (<usize>(j * FEATURES + i) << 3), next);
    }
  }
  const samples = predictor.samples;
  const relative = abs<f64>(error) / max<f64>(1, abs<f64>(value));
  const mean = predictor.error;
  predictor.error = samples == 0 ? relative : mean + pace * (relative - mean);
  predictor.samples = samples + 1;
  return predicted;
}
