// SPDX-License-Identifier: Apache-2.0
// The LoRA adapters of each endpoint, as numbers of 1 to 64: those that it holds, which need not be loaded, and those that
// it lists, without which it cannot serve a request for them.

import type { AttachedKernel } from "../../wasm/kernel.ts";

export class EndpointAdapters {
  readonly #words: Int32Array;

  constructor(readonly kernel: AttachedKernel) {
    this.#words = new Int32Array(kernel.buffer);
  }

  setHeld(row: number, adapters: Iterable<number>): void {
    this.#set(this.kernel.exports.ENDPOINT_ADAPTERS, row, adapters);
  }

  setListed(row: number, adapters: Iterable<number>): void {
    this.#set(this.kernel.exports.ENDPOINT_LISTED, row, adapters);
  }

  /** It answered 404: its list of models is to be read at once. */
  ask(row: number): void {
    this.#words[this.#asked(row)] = 1;
  }

  /** Whether `ask` was called since the last time. Control plane only. */
  takeAsked(row: number): boolean {
    const cell = this.#asked(row);
    return this.#words[cell] !== 0 && Atomics.exchange(this.#words, cell, 0) !== 0;
  }

  #asked(row: number): number {
    const { exports: k } = this.kernel;
    return (k.columnOffset(k.ENDPOINT_ASKED) >>> 2) + row;
  }

  #set(column: number, row: number, adapters: Iterable<number>): void {
    const sets = [0, 0];
    for (const adapter of adapters) sets[(adapter - 1) >> 5] |= 1 << ((adapter - 1) & 31);
    for (const i of [0, 1]) {
      Atomics.store(this.#words, (this.kernel.exports.columnOffset(column + i) >>> 2) + row, sets[i]);
    }
  }
}
