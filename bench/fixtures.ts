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

/** A conversation of so many turns of an agent: tools, calls of them, and what they gave. */
export function agentBody(turns: number): string {
  const tools = Array.from({ length: 20 }, (_, i) => ({
    type: "function",
    function: {
      name: `tool_${i}`,
      description: "Reads a file of the workspace and returns what is in it, a part of its lines at a time. ".repeat(4),
      parameters: {
        type: "object",
        properties: {
          path: { type: "string", description: "Where it is" },
          from: { type: "integer" },
          to: { type: "integer" },
        },
        required: ["path"],
      },
    },
  }));
  const messages: unknown[] = [{ role: "system", content: "You are an agent. ".repeat(200) }];
  for (let i = 0; i < turns; i++) {
    const call = {
      name: `tool_${i % 20}`,
      arguments: JSON.stringify({ path: `/src/file_${i}.ts`, from: i, to: i + 40 }),
    };
    messages.push(
      { role: "assistant", content: null, tool_calls: [{ id: `call_${i}`, type: "function", function: call }] },
      { role: "tool", tool_call_id: `call_${i}`, content: `export function f${i}(): void {}\n`.repeat(40) },
    );
  }
  messages.push({ role: "user", content: "Go on." });
  return JSON.stringify({ model: "m", messages, tools, stream: true });
}
