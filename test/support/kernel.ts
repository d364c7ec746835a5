// SPDX-License-Identifier: Apache-2.0
// A kernel over a small memory of its own for tests and benchmarks.

import {
  type AttachedKernel,
  attachKernel,
  compileKernel,
  createSharedKernel,
  type KernelExports,
  type MemoryLimits,
  type SharedKernel,
} from "../../wasm/kernel.ts";
import { questionFields } from "../../src/tables/question.ts";

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
  responses: 64,
  predictors: 8,
  tenants: 4,
  blocks: 4_096,
};

/** Attached instances of one fresh memory, one per worker area. */
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

/** A question, and what `choose` and `arrive` take when they are asked nothing else. */
export interface Asked {
  cluster?: number;
  mask?: number;
  policy?: number;
  percent?: number;
  cacheWeight?: number;
  requestWeight?: number;
  prefillWeight?: number;
  promptColumn?: number;
  promptFloor?: number;
  adapter?: number;
  adapterWeight?: number;
  promptBytes?: number;
  model?: number;
  now?: number;
  deadline?: number;
  band?: number;
  tenant?: number;
}

/** Writes a question; returns the kernel to be asked. */
export function ask(kernel: AttachedKernel, asked: Asked): KernelExports {
  const { exports: k, buffer } = kernel;
  const fields = questionFields(kernel);
  const [words, floats, doubles] = [new Int32Array(buffer), new Float32Array(buffer), new Float64Array(buffer)];
  words[fields.cluster] = asked.cluster ?? 0;
  words[fields.eligibility] = asked.mask ?? k.SERVING;
  words[fields.policy] = asked.policy ?? k.POLICY_INFERENCE_LB;
  floats[fields.percent] = asked.percent ?? 5;
  floats[fields.cacheWeight] = asked.cacheWeight ?? 2;
  floats[fields.requestWeight] = asked.requestWeight ?? 1;
  floats[fields.prefillWeight] = asked.prefillWeight ?? 3;
  words[fields.promptColumn] = asked.promptColumn ?? k.ENDPOINT_PROMPT;
  floats[fields.promptFloor] = asked.promptFloor ?? 1_024;
  words[fields.adapter] = asked.adapter ?? 0;
  floats[fields.adapterWeight] = asked.adapterWeight ?? 0;
  words[fields.promptBytes] = asked.promptBytes ?? 0;
  words[fields.model] = asked.model ?? 0;
  doubles[fields.nowMs] = asked.now ?? 0;
  doubles[fields.deadlineMs] = asked.deadline ?? 0;
  words[fields.band] = asked.band ?? 1_000;
  words[fields.tenant] = asked.tenant ?? 0;
  return k;
}

/** Word of the decision in scratch. */
export function decisionWord(kernel: AttachedKernel, field: number): number {
  return new Int32Array(kernel.buffer)[(kernel.exports.decisionOffset() + field) >>> 2];
}

/** The (row, bytes) pairs of the last lookup. */
export function readMatches(kernel: AttachedKernel): Map<number, number> {
  const k = kernel.exports;
  const at = (k.decisionOffset() + k.QUESTION_MATCH) >>> 2;
  const words = new Int32Array(kernel.buffer);
  return new Map(
    Array.from(
      { length: decisionWord(kernel, k.QUESTION_MATCHES) },
      (_, m) => [words[at + 2 * m], words[at + 2 * m + 1]],
    ),
  );
}
