// SPDX-License-Identifier: Apache-2.0
// What workers observed, on its way to the trainer: a ring in each worker's part of the shared memory. The writer
// publishes with one atomic store; a full ring drops, which loses nothing but a lesson.

import type { AttachedKernel } from "../../wasm/kernel.ts";

/** One observed answer. NaN stands for what was not seen. */
export interface Sample {
  /** Model row. */
  model: number;
  /** Endpoint row. */
  endpoint: number;
  promptBytes: number;
  /** As the engine counted them. */
  promptTokens: number;
  cachedTokens: number;
  /** From the beginning of its prefill to its first token. */
  prefillMs: number;
  /** Mean time between tokens. */
  tpotMs: number;
  /** Requests on the endpoint while it was decoded. */
  batch: number;
  /** What was predicted for its first token when it was sent, over what came. */
  predicted: number;
}

const FIELDS: readonly (keyof Sample)[] = [
  "model",
  "endpoint",
  "promptBytes",
  "promptTokens",
  "cachedTokens",
  "prefillMs",
  "tpotMs",
  "batch",
  "predicted",
];
const WRITTEN = 0;
const READ = 1;

class Ring {
  readonly counts: Int32Array;
  readonly floats: Float64Array;
  readonly capacity: number;

  constructor({ exports: k, buffer }: AttachedKernel, worker: number) {
    const offset = k.sampleOffset(worker);
    this.counts = new Int32Array(buffer, offset, 2);
    this.capacity = k.SAMPLES;
    this.floats = new Float64Array(buffer, offset + k.SAMPLE_HEADER_BYTES, this.capacity * FIELDS.length);
  }

  at(count: number): number {
    return ((count >>> 0) % this.capacity) * FIELDS.length;
  }
}

/** A worker's end. */
export class SampleWriter {
  readonly #ring: Ring;

  constructor(kernel: AttachedKernel) {
    this.#ring = new Ring(kernel, kernel.worker);
  }

  /** Hands a sample on; false when the ring is full. */
  write(sample: Sample): boolean {
    const { counts, floats, capacity } = this.#ring;
    const written = counts[WRITTEN];
    if (((written - Atomics.load(counts, READ)) >>> 0) >= capacity) return false;
    const at = this.#ring.at(written);
    for (let i = 0; i < FIELDS.length; i++) floats[at + i] = sample[FIELDS[i]];
    Atomics.store(counts, WRITTEN, (written + 1) | 0);
    return true;
  }
}

/** The control plane's end: takes what every worker has written. */
export class SampleReader {
  readonly #rings: Ring[];

  constructor(kernel: AttachedKernel) {
    const workers = new Int32Array(kernel.buffer)[kernel.exports.HEADER_WORKERS];
    this.#rings = Array.from({ length: workers }, (_, worker) => new Ring(kernel, worker));
  }

  *take(): Generator<Sample> {
    for (const ring of this.#rings) {
      const { counts, floats } = ring;
      for (let read = counts[READ]; read !== Atomics.load(counts, WRITTEN);) {
        const at = ring.at(read);
        const [model, endpoint, promptBytes, promptTokens, cachedTokens, prefillMs, tpotMs, batch, predicted] = floats
          .subarray(at, at + FIELDS.length);
        yield { model, endpoint, promptBytes, promptTokens, cachedTokens, prefillMs, tpotMs, batch, predicted };
        read = (read + 1) | 0;
        Atomics.store(counts, READ, read);
      }
    }
  }
}
