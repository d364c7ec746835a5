// SPDX-License-Identifier: Apache-2.0
// What workers observed, on its way to the trainer: a ring in each worker's part of the shared memory. The writer
// publishes with one atomic store; a full ring drops, which loses nothing but a lesson.

import type { AttachedKernel } from "../../wasm/kernel.ts";

/** One observed first token. */
export interface TtftSample {
  /** Model row. */
  model: number;
  promptBytes: number;
  /** As the engine counted them. */
  promptTokens: number;
  cachedTokens: number;
  /** From the request's being sent to its first token. */
  ttftMs: number;
}

const WRITTEN = 0;
const READ = 1;
const HEADER_FLOATS = 8;

class Ring {
  readonly counts: Int32Array;
  readonly floats: Float64Array;
  readonly capacity: number;
  readonly fields: number;

  constructor({ exports: k, buffer }: AttachedKernel, worker: number) {
    const offset = k.sampleOffset(worker);
    this.counts = new Int32Array(buffer, offset, 2);
    this.capacity = k.SAMPLES;
    this.fields = k.SAMPLE_FIELDS;
    this.floats = new Float64Array(buffer, offset + HEADER_FLOATS * 8, this.capacity * this.fields);
  }

  at(count: number): number {
    return ((count >>> 0) % this.capacity) * this.fields;
  }
}

/** A worker's end. */
export class SampleWriter {
  readonly #ring: Ring;

  constructor(kernel: AttachedKernel) {
    this.#ring = new Ring(kernel, kernel.worker);
  }

  /** Hands a sample on; false when the ring is full. */
  write({ model, promptBytes, promptTokens, cachedTokens, ttftMs }: TtftSample): boolean {
    const { counts, floats, capacity } = this.#ring;
    const written = counts[WRITTEN];
    if (((written - Atomics.load(counts, READ)) >>> 0) >= capacity) return false;
    const at = this.#ring.at(written);
    floats[at] = model;
    floats[at + 1] = promptBytes;
    floats[at + 2] = promptTokens;
    floats[at + 3] = Math.min(cachedTokens, promptTokens);
    floats[at + 4] = ttftMs;
    Atomics.store(counts, WRITTEN, (written + 1) | 0);
    return true;
  }
}

/** The control plane's end: takes what every worker has written. */
export class SampleReader {
  readonly #rings: Ring[];

  constructor(kernel: AttachedKernel) {
    const workers = new Int32Array(kernel.buffer)[kernel.exports.H_WORKERS];
    this.#rings = Array.from({ length: workers }, (_, worker) => new Ring(kernel, worker));
  }

  *take(): Generator<TtftSample> {
    for (const ring of this.#rings) {
      const { counts, floats } = ring;
      for (let read = counts[READ]; read !== Atomics.load(counts, WRITTEN);) {
        const at = ring.at(read);
        yield {
          model: floats[at],
          promptBytes: floats[at + 1],
          promptTokens: floats[at + 2],
          cachedTokens: floats[at + 3],
          ttftMs: floats[at + 4],
        };
        read = (read + 1) | 0;
        Atomics.store(counts, READ, read);
      }
    }
  }
}
