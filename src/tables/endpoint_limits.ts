// SPDX-License-Identifier: Apache-2.0
// Most requests in flight on an endpoint, for two reasons: what keeps its latency down, and what its engine runs at once.
// The lower one holds. Written by the control plane alone.

import type { AttachedKernel } from "../../wasm/kernel.ts";

export type LimitReason = "latency" | "slots";

const NO_LIMIT = 2 ** 31 - 1;

export class EndpointLimits {
  readonly #words: Int32Array;
  readonly #column: number;
  readonly #limits = new Map<number, Partial<Record<LimitReason, number>>>();

  readonly #kernel: AttachedKernel;

  constructor(kernel: AttachedKernel) {
    const { exports: k, buffer } = this.#kernel = kernel;
    this.#words = new Int32Array(buffer);
    this.#column = k.columnOffset(k.ENDPOINT_LIMIT) >>> 2;
  }

  /** Sets one of an endpoint's limits; undefined for none. */
  set(row: number, reason: LimitReason, requests: number | undefined): void {
    let limits = this.#limits.get(row);
    if (!limits) this.#limits.set(row, limits = {});
    limits[reason] = requests;
    const least = Math.min(limits.latency ?? NO_LIMIT, limits.slots ?? NO_LIMIT);
    Atomics.store(this.#words, this.#column + row, least);
  }

  /** The limit that was set for a reason; undefined for none. */
  of(row: number, reason: LimitReason): number | undefined {
    return this.#limits.get(row)?.[reason];
  }

  /** The one that holds; undefined for none. */
  least(row: number): number | undefined {
    const limit = Atomics.load(this.#words, this.#column + row);
    return limit === NO_LIMIT ? undefined : limit;
  }

  /** Prompts that an endpoint's engine computes at once. */
  setParallel(row: number, prompts: number): void {
    const k = this.#kernel.exports;
    Atomics.store(this.#words, (k.columnOffset(k.ENDPOINT_PARALLEL) >>> 2) + row, prompts);
    if (prompts > 1) Atomics.store(this.#words, k.HEADER_PARALLEL, 1);
  }

  /** The row is another endpoint's now. */
  reset(row: number): void {
    this.#limits.delete(row);
    this.setParallel(row, 1);
    Atomics.store(this.#words, this.#column + row, NO_LIMIT);
  }
}
