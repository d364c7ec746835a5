// SPDX-License-Identifier: Apache-2.0
// The kernel's index of blocks that engines tell to hold, from the side that writes it: one thread, the control plane's.

import type { AttachedKernel } from "../../wasm/kernel.ts";

/** Keys as pairs of 32-bit words, low word first. */
export type BlockKeys = Uint32Array;

export class BlockIndex {
  readonly #kernel: AttachedKernel;
  readonly #scratch: Uint32Array;
  /** Most keys that go at once. */
  readonly capacity: number;
  /** Keys for which there was no place. */
  lost = 0;

  constructor(kernel: AttachedKernel) {
    this.#kernel = kernel;
    this.capacity = kernel.exports.blockCapacity();
    this.#scratch = new Uint32Array(kernel.buffer, kernel.exports.blockKeysOffset(), 2 * this.capacity);
  }

  /** An endpoint holds `count` blocks from now on, none of which it held. Those without a place become 0. */
  hold(row: number, keys: BlockKeys, count: number): void {
    this.#each(keys, count, (piece) => {
      const lost = this.#kernel.exports.blocksHold(piece.length >>> 1, row);
      if (lost > 0) piece.set(this.#scratch.subarray(0, piece.length));
      this.lost += lost;
    });
  }

  /** An endpoint holds `count` blocks no more, all of which it held or that are 0. */
  drop(row: number, keys: BlockKeys, count: number): void {
    this.#each(keys, count, (piece) => this.#kernel.exports.blocksDrop(piece.length >>> 1, row));
  }

  /** An endpoint's engine tells all that it holds, in blocks of so many tokens; 0: what it holds is presumed. */
  setBlockTokens(row: number, tokens: number): void {
    const { exports, buffer } = this.#kernel;
    const column = exports.columnOffset(exports.ENDPOINT_BLOCK_TOKENS) >>> 2;
    Atomics.store(new Int32Array(buffer as SharedArrayBuffer), column + row, tokens);
  }

  #each(keys: BlockKeys, count: number, act: (piece: BlockKeys) => void): void {
    for (let at = 0; at < count; at += this.capacity) {
      const piece = keys.subarray(2 * at, 2 * Math.min(count, at + this.capacity));
      this.#scratch.set(piece);
      act(piece);
    }
  }
}
