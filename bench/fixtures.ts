// SPDX-License-Identifier: Apache-2.0
// Fixtures of the kernel benchmarks: a fleet with loads, prompts of given sizes, a filled prefix index.

import type { Placement } from "../src/scheduler/placement.ts";
import { EndpointTable } from "../src/tables/endpoint_table.ts";
import { Random } from "../src/base/random.ts";
import { freshKernel } from "../test/support/kernel.ts";
import type { TwinRow } from "../test/kernel/twin.ts";

export const ENDPOINTS = [8, 64, 1_000, 10_000];
export const PROMPT_KIB = [1, 8, 128];

/** A chat request's body whose messages take about `kib` KiB. */
export function requestBody(kib: number): string {
  const random = new Random(kib);
  const messages = [{ role: "system", content: "You are terse." }];
  let bytes = 60;
  while (bytes < kib * 1_024) {
    const content = Array.from({ length: 60 }, () => random.below(2 ** 30).toString(36)).join(" ");
    messages.push({ role: messages.length % 2 ? "user" : "assistant", content: content.slice(0, kib * 1_024 - bytes) });
    bytes += content.length + 34;
  }
  return JSON.stringify({ model: "m", stream: true, messages });
}

/** A kernel with one cluster of `endpoints` under random load, and the same rows for the twin. */
export function loadedFleet(endpoints: number) {
  const random = new Random(endpoints);
  const kernel = freshKernel({ endpoints: endpoints + 16, prefixes: 262_144, promptChunks: 512 }, 7);
  const k = kernel.exports;
  const table = new EndpointTable(kernel);
  const words = new Int32Array(kernel.buffer);
  const rows: number[] = [];
  const twins: TwinRow[] = [];
  for (let i = 0; i < endpoints; i++) {
    const row = table.add(0, { hostname: "engine", port: 1 + i % 60_000 }, 4_096, 0);
    const requests = random.below(40);
    const promptBytes = random.below(200_000);
    words[(k.columnOffset(k.ENDPOINT_REQUESTS) >>> 2) + row] = requests;
    words[(k.columnOffset(k.ENDPOINT_UNCACHED) >>> 2) + row] = promptBytes;
    rows.push(row);
    twins.push({ eligibility: 1, requests, promptBytes, matched: 0 });
  }
  return { kernel, rows, twins };
}

/** inference_lb on cluster 0. */
export const PLACEMENT: Placement = {
  cluster: 0,
  eligibility: 1,
  salt: 1,
  adapter: 0,
  policy: {
    name: "inference_lb",
    kernelPolicy: 0,
    queued: false,
    ttftSloMs: 0,
    tpotSloMs: 0,
    loadAware: true,
    cacheAware: true,
    candidatePercent: 5,
    cacheWeight: 2,
    requestWeight: 1,
    prefillWeight: 3,
    adapterWeight: 1,
    uncachedOnly: true,
    prefillFloorBytes: 8_192,
  },
};
