// SPDX-License-Identifier: Apache-2.0
// A kernel over a small memory of its own for tests and benchmarks.

import {
  type AttachedKernel,
  attachKernel,
  compileKernel,
  createSharedKernel,
  type MemoryLimits,
  type SharedKernel,
} from "../../wasm/kernel.ts";

const module = await compileKernel();

export const SMALL: MemoryLimits = {
  workers: 3,
  clusters: 4,
  endpoints: 64,
  requestsPerWorker: 32,
  prefixes: 65_536,
  promptChunks: 256,
  metricCells: 64,
  ringWords: 1_024,
  pins: 64,
  predictors: 8,
  tenants: 4,
};

/** Attached instances of one fresh memory, one per worker block. */
export function freshKernels(limits: Partial<MemoryLimits> = {}, seed = 1): AttachedKernel[] {
  const all = { ...SMALL, ...limits };
  const shared = createSharedKernel(module, all);
  return Array.from({ length: all.workers }, (_, worker) => attachKernel(shared, worker, seed + worker));
}

/** A fresh memory, and the control plane's instance of it. */
export function sharedKernel(limits: Partial<MemoryLimits> = {}): { shared: SharedKernel; kernel: AttachedKernel } {
  const shared = createSharedKernel(module, { ...SMALL, ...limits });
  return { shared, kernel: attachKernel(shared, 0, 1) };
}

export function freshKernel(limits: Partial<MemoryLimits> = {}, seed = 1): AttachedKernel {
  return freshKernels(limits, seed)[0];
}

/** Writes text where decisions read it; returns its length in bytes. */
export function writePrompt(kernel: AttachedKernel, text: string | Uint8Array): number {
  const bytes = typeof text === "string" ? new TextEncoder().encode(text) : text;
  new Uint8Array(kernel.buffer).set(bytes, kernel.exports.textOffset());
  return bytes.length;
}

/** The first `count` hashes in scratch. */
export function readHashes(kernel: AttachedKernel, count: number): bigint[] {
  return [...new BigUint64Array(kernel.buffer, kernel.exports.hashOffset(), count)];
}

export function writeHashes(kernel: AttachedKernel, hashes: bigint[]): void {
  new BigUint64Array(kernel.buffer, kernel.exports.hashOffset(), hashes.length).set(hashes);
}

/** Word of the decision in scratch. */
export function decisionWord(kernel: AttachedKernel, field: number): number {
  return new Int32Array(kernel.buffer)[(kernel.exports.decisionOffset() + field) >>> 2];
}

/** The (row, chunks) pairs of the last lookup. */
export function readMatches(kernel: AttachedKernel): Map<number, number> {
  const k = kernel.exports;
  const at = (k.decisionOffset() + k.D_MATCH) >>> 2;
  const words = new Int32Array(kernel.buffer);
  return new Map(
    Array.from({ length: decisionWord(kernel, k.D_MATCHES) }, (_, m) => [words[at + 2 * m], words[at + 2 * m + 1]]),
  );
}
