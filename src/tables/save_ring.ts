// SPDX-License-Identifier: Apache-2.0
// From a worker to the control plane: the prefixes that its requests have put into engines, for the metadata center. A
// single-producer ring per worker; a full one drops the record, which is only a lost hint.
//
//   record: chunks | endpoint row | salt | chunks × (low word, high word)

import type { AttachedKernel } from "../../wasm/kernel.ts";
import { assert } from "../base/assert.ts";

const HEADER_WORDS = 3;

/** Switches the rings on or off for all workers; the control plane's to call. */
export function setSharing(kernel: AttachedKernel, on: boolean): void {
  Atomics.store(new Int32Array(kernel.buffer), kernel.exports.HEADER_SHARING, on ? 1 : 0);
}

/** A worker's end. */
export class SaveRingWriter {
  readonly #words: Int32Array;
  readonly #written: number;
  readonly #read: number;
  readonly #body: number;
  readonly #mask: number;
  readonly #sharing: number;
  dropped = 0;

  constructor(kernel: AttachedKernel) {
    const k = kernel.exports;
    this.#words = new Int32Array(kernel.buffer);
    const ring = k.ringOffset(kernel.worker);
    this.#written = (ring + k.RING_WRITTEN) >>> 2;
    this.#read = (ring + k.RING_READ) >>> 2;
    this.#body = (ring + k.RING_HEADER_BYTES) >>> 2;
    this.#mask = this.#words[k.HEADER_RING] - 1;
    assert((this.#mask & (this.#mask + 1)) === 0, "a ring has a power of two words");
    this.#sharing = k.HEADER_SHARING;
  }

  /** Hands on that `row` holds the prompt with these hashes, if anybody wants to know. */
  write(row: number, salt: number, chunks: number, hashes: Int32Array): void {
    if (this.#words[this.#sharing] === 0) return;
    const body = this.#body;
    const written = Atomics.load(this.#words, this.#written);
    const free = this.#mask + 1 - ((written - Atomics.load(this.#words, this.#read)) | 0);
    if (HEADER_WORDS + 2 * chunks > free) {
      this.dropped++;
      return;
    }
    this.#words[body + (written & this.#mask)] = chunks;
    this.#words[body + ((written + 1) & this.#mask)] = row;
    this.#words[body + ((written + 2) & this.#mask)] = salt;
    const first = written + HEADER_WORDS;
    for (let i = 0; i < 2 * chunks; i++) this.#words[body + ((first + i) & this.#mask)] = hashes[i];
    Atomics.store(this.#words, this.#written, (first + 2 * chunks) | 0);
  }
}

export interface SaveRecord {
  row: number;
  salt: number;
  hashes: bigint[];
}

/** Takes what a worker's ring holds, at most `most` records; the control plane's end. */
export function readSaves(kernel: AttachedKernel, worker: number, max = 1_000): SaveRecord[] {
  const k = kernel.exports;
  const words = new Int32Array(kernel.buffer);
  const ring = k.ringOffset(worker);
  const body = (ring + k.RING_HEADER_BYTES) >>> 2;
  const readAt = (ring + k.RING_READ) >>> 2;
  const mask = words[k.HEADER_RING] - 1;
  const at = (i: number) => words[body + (i & mask)];
  const written = Atomics.load(words, (ring + k.RING_WRITTEN) >>> 2);
  let read = Atomics.load(words, readAt);
  const records: SaveRecord[] = [];
  while (read !== written && records.length < max) {
    const chunks = at(read);
    const hashes = Array.from({ length: chunks }, (_, i) => {
      const word = read + HEADER_WORDS + 2 * i;
      return (BigInt(at(word + 1) >>> 0) << 32n) | BigInt(at(word) >>> 0);
    });
    records.push({ row: at(read + 1), salt: at(read + 2) >>> 0, hashes });
    read = (read + HEADER_WORDS + 2 * chunks) | 0;
  }
  Atomics.store(words, readAt, read);
  return records;
}
