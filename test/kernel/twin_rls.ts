// SPDX-License-Identifier: Apache-2.0
// Recursive least squares in plain TypeScript, for comparison.

export class TwinRls {
  readonly theta: Float64Array;
  readonly #covariance: Float64Array;
  readonly #product: Float64Array;

  constructor(readonly features: number, variance: number) {
    this.theta = new Float64Array(features);
    this.#covariance = new Float64Array(features * features);
    this.#product = new Float64Array(features);
    for (let i = 0; i < features; i++) this.#covariance[i * features + i] = variance;
  }

  predict(x: ArrayLike<number>): number {
    let sum = 0;
    for (let i = 0; i < this.features; i++) sum += this.theta[i] * x[i];
    return sum;
  }

  /** Returns what would have been predicted. */
  learn(x: ArrayLike<number>, value: number, forgetting: number): number {
    const n = this.features;
    let spread = 0;
    for (let i = 0; i < n; i++) {
      let sum = 0;
      for (let j = 0; j < n; j++) sum += this.#covariance[i * n + j] * x[j];
      this.#product[i] = sum;
      spread += sum * x[i];
    }
    const predicted = this.predict(x);
    const epsilon = forgetting - (1 - forgetting) / spread;
    const shrink = epsilon === 0 ? 0 : 1 / (1 / epsilon + spread);
    for (let i = 0; i < n; i++) this.theta[i] += this.#product[i] * (value - predicted) / (1 + spread);
    for (let i = 0; i < n; i++) {
      for (let j = i; j < n; j++) {
        const next = this.#covariance[i * n + j] - this.#product[i] * this.#product[j] * shrink;
        this.#covariance[i * n + j] = this.#covariance[j * n + i] = next;
      }
    }
    return predicted;
  }
}
