// SPDX-License-Identifier: Apache-2.0
// Which engine has a stored response: a bounded table of 64-bit keys in buckets of 8, written by any worker. A full
// bucket gives up its entries in turn. A value carries 16 bits of its key, so that a reader who meets an entry while two
// writers change it takes neither for the other's.

import type { AttachedKernel } from "../../wasm/kernel.ts";
const WORDS = 2;
/** Bits of a generation that an entry keeps. */
const GENERATION = 0xffff;

export class ResponseTable {
  readonly #entries: BigUint64Array;
  readonly #first: number;
  readonly #buckets: number;
  readonly #slots: number;
  #turn = 0;

  constructor(kernel: AttachedKernel) {
    const k = kernel.exports;
    this.#entries = new BigUint64Array(kernel.buffer);
    this.#first = k.responseOffset(0) >>> 3;
    this.#buckets = new Int32Array(kernel.buffer)[k.HEADER_RESPONSES];
    this.#slots = k.RESPONSE_BUCKET_ENTRIES;
  }

  /** Remembers the endpoint row, of this identity generation, that has `id`. */
  set(id: string, row: number, generation: number): void {
    const key = keyOf(id);
    const start = this.#bucket(key);
    let at = -1;
    for (let slot = 0; slot < this.#slots; slot++) {
      const known = Atomics.load(this.#entries, start + slot * WORDS);
      if (known === key) {
        at = start + slot * WORDS;
        break;
      }
      if (known === 0n && at < 0) at = start + slot * WORDS;
    }
    if (at < 0) at = start + (this.#turn++ % this.#slots) * WORDS;
    Atomics.store(this.#entries, at, 0n);
    const check = (key >> 48n) << 48n;
    Atomics.store(this.#entries, at + 1, check | (BigInt(generation & GENERATION) << 32n) | BigInt(row));
    Atomics.store(this.#entries, at, key);
  }

  /** Whether an entry's generation is still that of its row. */
  matches(kept: number, now: number): boolean {
    return kept === (now & GENERATION);
  }

  /** The endpoint row and the low bits of its generation at the time, or undefined. */
  get(id: string): { row: number; generation: number } | undefined {
    const key = keyOf(id);
    const start = this.#bucket(key);
    for (let slot = 0; slot < this.#slots; slot++) {
      const at = start + slot * WORDS;
      if (Atomics.load(this.#entries, at) !== key) continue;
      const value = Atomics.load(this.#entries, at + 1);
      if (value >> 48n !== key >> 48n) continue;
      return { row: Number(value & 0xffff_ffffn), generation: Number(value >> 32n) & GENERATION };
    }
    return undefined;
  }

  #bucket(key: bigint): number {
    return this.#first + Number(key % BigInt(this.#buckets)) * this.#slots * WORDS;
  }
}

// Two lanes of 32 bits that mix differently; 0 marks an empty entry.
function keyOf(id: string): bigint {
  let a = 0x811c9dc5;
  let b = 0x9e3779b9;
  for (let i = 0; i < id.length; i++) {
    const code = id.charCodeAt(i);
    a = Math.imul(a ^ code, 0x01000193);
    b = Math.imul((b << 13 | b >>> 19) ^ code, 0x85ebca6b) + 0x165667b1 | 0;
  }
  return (BigInt(a >>> 0) << 32n) | BigInt(b >>> 0) || 1n;
}
