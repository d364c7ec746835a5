// SPDX-License-Identifier: Apache-2.0
// Learned models of the time to first token, one row a model:
//
//   ms = a·input² + b·cached² + c·input·cached + d·input + e·cached + f     (input, cached in thousands of tokens)
//
// and, in rows of their own, of the decode step. Every thread predicts, the control plane alone learns.

import type { AttachedKernel } from "../../wasm/kernel.ts";

/** Covariance at the start. */
const VARIANCE = 1e6;

/** A saved model. */
export interface PredictorState {
  samples: number;
  theta: number[];
  covariance: number[];
  bytesPerToken: number;
}

/** Prefill of one request. */
export interface PrefillSample {
  readonly inputTokens: number;
  readonly cachedTokens: number;
  readonly ms: number;
}

/** One decode step. */
export interface StepSample {
  readonly batch: number;
  readonly contextTokens: number;
  readonly ms: number;
}

export interface LearningWeights {
  /** Of what was learned before, above 0 and at most 1. */
  readonly forgetting: number;
  /** Of a sample's error in the mean. */
  readonly pace: number;
}

export class PredictorTable {
  readonly #kernel: AttachedKernel;
  readonly #floats: Float64Array;
  readonly #features: number;
  readonly #rows: number;

  constructor(kernel: AttachedKernel) {
    this.#kernel = kernel;
    this.#floats = new Float64Array(kernel.buffer);
    this.#features = kernel.exports.featureOffset() >>> 3;
    this.#rows = new Int32Array(kernel.buffer)[kernel.exports.HEADER_PREDICTORS];
  }

  #put(inputTokens: number, cachedTokens: number): void {
    const [input, cached] = [inputTokens / 1_000, cachedTokens / 1_000];
    const at = this.#features;
    this.#floats[at] = input * input;
    this.#floats[at + 1] = cached * cached;
    this.#floats[at + 2] = input * cached;
    this.#floats[at + 3] = input;
    this.#floats[at + 4] = cached;
    this.#floats[at + 5] = 1;
  }

  #cell(row: number, field: number): number {
    return (this.#kernel.exports.predictorOffset(row) + field) >>> 3;
  }

  reset(row: number): void {
    this.#kernel.exports.predictorReset(row, VARIANCE);
  }

  /** Predicted milliseconds. */
  predict(row: number, inputTokens: number, cachedTokens: number): number {
    this.#put(inputTokens, cachedTokens);
    return this.#kernel.exports.predict(row);
  }

  /** Learns from a request; returns what would have been predicted for it. */
  learn(row: number, { inputTokens, cachedTokens, ms }: PrefillSample, { forgetting, pace }: LearningWeights): number {
    this.#put(inputTokens, cachedTokens);
    return this.#kernel.exports.learn(row, ms, forgetting, pace);
  }

  samples(row: number): number {
    return this.#floats[this.#cell(row, this.#kernel.exports.PREDICTOR_SAMPLES)];
  }

  /** Moving mean of |error| / value of the predictions. */
  error(row: number): number {
    return this.#floats[this.#cell(row, this.#kernel.exports.PREDICTOR_ERROR)];
  }

  /** Prompt bytes to a token, 0 when not known. */
  bytesPerToken(row: number): number {
    return this.#floats[this.#cell(row, this.#kernel.exports.PREDICTOR_RATIO)];
  }

  /** Ms that an uncached prompt byte takes over all endpoints of the model. */
  rate(row: number): number {
    return this.#floats[this.#cell(row, this.#kernel.exports.PREDICTOR_RATE)];
  }

  setRate(row: number, msPerByte: number): void {
    this.#floats[this.#cell(row, this.#kernel.exports.PREDICTOR_RATE)] = msPerByte;
  }

  /** Takes a prefill time into the moving average of its prompt's KiB. */
  learnAverage(model: number, promptBytes: number, ms: number): void {
    this.#kernel.exports.learnAverage(model, promptBytes, ms);
  }

  /** Row of a model's decode step. */
  stepRow(model: number): number {
    return this.#rows / 2 + model;
  }

  /**
   * Learns the decode step: ms = θ₀ + θ₁ · batch + θ₂ · batch · thousands of tokens of context. Returns what would have
   * been predicted.
   */
  learnStep(model: number, { batch, contextTokens, ms }: StepSample, { forgetting, pace }: LearningWeights): number {
    this.#putStep(batch, contextTokens);
    return this.#kernel.exports.learn(this.stepRow(model), ms, forgetting, pace);
  }

  /** Predicted ms of a decode step. */
  predictStep(model: number, batch: number, contextTokens: number): number {
    this.#putStep(batch, contextTokens);
    return this.#kernel.exports.predict(this.stepRow(model));
  }

  #putStep(batch: number, contextTokens: number): void {
    const at = this.#features;
    this.#floats.fill(0, at, at + this.#kernel.exports.FEATURES);
    this.#floats[at] = 1;
    this.#floats[at + 1] = batch;
    this.#floats[at + 2] = batch * contextTokens / 1_000;
  }

  setBytesPerToken(row: number, ratio: number): void {
    this.#floats[this.#cell(row, this.#kernel.exports.PREDICTOR_RATIO)] = ratio;
  }

  /** What a row has learned, to be kept over a restart. */
  save(row: number): PredictorState {
    const { PREDICTOR_THETA, PREDICTOR_COVARIANCE, FEATURES } = this.#kernel.exports;
    const slice = (field: number, count: number) => [
      ...this.#floats.subarray(this.#cell(row, field), this.#cell(row, field) + count),
    ];
    return {
      samples: this.samples(row),
      theta: slice(PREDICTOR_THETA, FEATURES),
      covariance: slice(PREDICTOR_COVARIANCE, FEATURES * FEATURES),
      bytesPerToken: this.bytesPerToken(row),
    };
  }

  /** Takes a saved model over, before anybody reads the row. */
  restore(row: number, { samples, theta, covariance, bytesPerToken }: PredictorState): void {
    const { PREDICTOR_SAMPLES, PREDICTOR_THETA, PREDICTOR_COVARIANCE } = this.#kernel.exports;
    this.#floats.set(theta, this.#cell(row, PREDICTOR_THETA));
    this.#floats.set(covariance, this.#cell(row, PREDICTOR_COVARIANCE));
    this.#floats[this.#cell(row, PREDICTOR_SAMPLES)] = samples;
    this.setBytesPerToken(row, bytesPerToken);
  }
}
