// SPDX-License-Identifier: Apache-2.0
// Which engine holds a stored response: a bounded table of 64-bit keys in buckets of 8, written by any worker. A full
// bucket gives up its entries in turn. Value first, key last; a reader looks at the key again after it has read the
// value, so it never takes another key's engine.

import type { AttachedKernel } from "../../wasm/kernel.ts";
import { fnv1a } from "../base/fnv1a.ts";

const WORDS = 2;

export class PinTable {
  readonly #entries: BigUint64Array;
  readonly #first: number;
  readonly #buckets: number;
  readonly #slots: number;
  #turn = 0;

  constructor(kernel: AttachedKernel) {
    const k = kernel.exports;
    this.#entries = new BigUint64Array(kernel.buffer);
    this.#first = k.pinOffset(0) >>> 3;
    this.#buckets = new Int32Array(kernel.buffer)[k.H_PINS];
    this.#slots = k.PIN_BUCKET_ENTRIES;
  }

  /** Remembers the endpoint row, of this identity generation, that holds `id`. */
  set(id: string, row: number, generation: number): void {
    const key = keyOf(id);
    const start = this.#bucket(key);
    let at = -1;
    for (let slot = 0; slot < this.#slots; slot++) {
      const held = Atomics.load(this.#entries, start + slot * WORDS);
      if (held === key) {
        at = start + slot * WORDS;
        break;
      }
      if (held === 0n && at < 0) at = start + slot * WORDS;
    }
    if (at < 0) at = start + (this.#turn++ % this.#slots) * WORDS;
    Atomics.store(this.#entries, at, 0n);
    Atomics.store(this.#entries, at + 1, (BigInt(generation >>> 0) << 32n) | BigInt(row));
    Atomics.store(this.#entries, at, key);
  }

  /** The endpoint row and its generation at the time, or undefined. */
  get(id: string): { row: number; generation: number } | undefined {
    const key = keyOf(id);
    const start = this.#bucket(key);
    for (let slot = 0; slot < this.#slots; slot++) {
      const at = start + slot * WORDS;
      if (Atomics.load(this.#entries, at) !== key) continue;
      const value = Atomics.load(this.#entries, at + 1);
      if (Atomics.load(this.#entries, at) !== key) continue;
      return { row: Number(value & 0xffff_ffffn), generation: Number(value >> 32n) };
    }
    return undefined;
  }

  #bucket(key: bigint): number {
    return this.#first + Number(key % BigInt(this.#buckets)) * this.#slots * WORDS;
  }
}

// Two lanes of 32 bits; 0 marks an empty entry.
function keyOf(id: string): bigint {
  return (BigInt(fnv1a(id)) << 32n) | BigInt(fnv1a(`${id}\n`)) || 1n;
}
