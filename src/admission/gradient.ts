// SPDX-License-Identifier: Apache-2.0
// An adaptive limit of the requests in flight on an endpoint, from the gradient of its latency (after Netflix's
// concurrency-limits, gradient2):
//
//   gradient = clamp(tolerance · long / short, 0.5, 1),  limit += smoothing · (limit · gradient + √limit − limit)
//
// short and long are moving means of the time between tokens; as long as they agree the limit grows by its square root.

export interface GradientOptions {
  readonly min: number;
  readonly max: number;
  /** How much longer than usual is no sign of a queue. */
  readonly tolerance: number;
}

const SHORT = 1 / 10;
const LONG = 1 / 600;
const SMOOTHING = 0.2;

export class GradientLimit {
  #short = NaN;
  #long = NaN;
  #limit: number;

  constructor(readonly options: GradientOptions) {
    this.#limit = options.max;
  }

  /** Takes a latency in; `inFlight` requests were on the endpoint then. Returns the limit. */
  add(ms: number, inFlight: number): number {
    const { min, max, tolerance } = this.options;
    if (!(ms > 0)) return Math.round(this.#limit);
    this.#short = Number.isNaN(this.#short) ? ms : this.#short + SHORT * (ms - this.#short);
    this.#long = Number.isNaN(this.#long) ? ms : this.#long + LONG * (ms - this.#long);
    // After an overload the long mean comes down at once, or the limit would stay high.
    if (this.#long > 2 * this.#short) this.#long *= 0.95;
    // A limit that nobody reaches says nothing: it does not grow.
    if (inFlight < this.#limit / 2 && this.#limit < max) return Math.round(this.#limit);
    const gradient = Math.max(0.5, Math.min(1, tolerance * this.#long / this.#short));
    const next = this.#limit * gradient + (gradient === 1 ? Math.sqrt(this.#limit) : 0);
    this.#limit = Math.max(min, Math.min(max, this.#limit + SMOOTHING * (next - this.#limit)));
    return Math.round(this.#limit);
  }
}
