// SPDX-License-Identifier: Apache-2.0
import { assert, assertEquals, assertThrows } from "@std/assert";
import { attachKernel, compileKernel, createSharedKernel, hashOf, layoutOf } from "../../wasm/kernel.ts";
import { SERVING_BIT } from "../../src/scheduler/eligibility.ts";
import { RequestPhase } from "../../src/tables/request_table.ts";
import { freshKernel, SMALL } from "../support/kernel.ts";

const module = await compileKernel();

Deno.test("attach refuses a memory of another layout with a plain error", () => {
  const attachAfter = (word: number, value: number) => {
    const shared = createSharedKernel(module, SMALL);
    new Int32Array(shared.memory.buffer)[word] = value;
    return () => attachKernel(shared, 0, 1);
  };
  assertThrows(attachAfter(0, 7), Error, "not a memory of AIGW");
  assertThrows(attachAfter(1, 99), Error, "another layout version");
  assertThrows(attachAfter(2, 1), Error, "another build");
  assertThrows(attachAfter(6, 4096), Error, "smaller than its header says");
  assertThrows(() => attachKernel(createSharedKernel(module, SMALL), 3, 1), Error, "no such worker area");
});

Deno.test("createSharedKernel refuses limits that 32 bits cannot address", () => {
  assertThrows(() => createSharedKernel(module, { ...SMALL, prefixes: 2 ** 27 }), RangeError, "GiB of shared memory");
});

Deno.test("regions neither overlap nor leave the memory", () => {
  const shared = createSharedKernel(module, SMALL);
  const first = attachKernel(shared, 0, 1).exports;
  const last = attachKernel(shared, SMALL.workers - 1, 1).exports;
  const ends = [
    [256, first.clusterOffset(0)],
    [first.clusterOffset(SMALL.clusters), first.nextGroupOffset(0)],
    [first.nextGroupOffset(4), first.ordinalOffset(0)],
    [first.ordinalOffset(4), first.columnOffset(0)],
    [first.columnOffset(first.ENDPOINT_COLUMNS), first.identityOffset(0)],
    [first.identityOffset(64), first.requestOffset(0)],
    [first.requestOffset(SMALL.workers * SMALL.requestsPerWorker), first.decisionOffset()],
    [first.decisionOffset() + 256, first.queueOffset()],
    [first.hashOffset() + SMALL.promptChunks * 8, first.textOffset()],
    [last.textOffset() + SMALL.promptChunks * 512, last.metricOffset(0)],
    [last.metricOffset(SMALL.workers), first.ringOffset(0)],
    [last.ringOffset(SMALL.workers), first.responseOffset(0)],
    [first.responseOffset(SMALL.responses / 8), first.predictorOffset(0)],
    [first.predictorOffset(SMALL.predictors), first.sampleOffset(0)],
    [first.sampleOffset(SMALL.workers), shared.memory.buffer.byteLength],
  ];
  for (const [end, start] of ends) assert(end <= start, `${end} <= ${start}`);
  assertEquals(first.columnOffset(0) % 64, 0);
});

const MEMORY = new URL("../../assembly/memory/", import.meta.url);

function memorySources(): [string, string][] {
  return [...Deno.readDirSync(MEMORY)].map(({ name }) => [name, Deno.readTextFileSync(new URL(name, MEMORY))]);
}

Deno.test("layout: every constant and field in assembly/memory is exported, so that the hash covers it", () => {
  const layout = layoutOf(module);
  const missing: string[] = [];
  for (const [name, source] of memorySources()) {
    for (const [, constant] of source.matchAll(/^export const (\w+)/gm)) {
      if (!layout.has(constant)) missing.push(`${name}: ${constant} is not exported`);
    }
    for (const [, row, fields] of source.matchAll(/^export class (\w+) \{\n(.*?)^\}/gms)) {
      for (const [, field] of fields.matchAll(/^ +(\w+): \w+;/gm)) {
        const placed = new RegExp(`^export const \\w+: u32 = offsetof<${row}>\\("${field}"\\)`, "m");
        if (!placed.test(source)) missing.push(`${name}: no constant has the offset of ${row}.${field}`);
      }
    }
  }
  assertEquals(missing, []);
  assert(layout.size > 200);
});

Deno.test("layout: whatever is placed elsewhere changes the hash", () => {
  const layout = layoutOf(module);
  const hash = hashOf(layout);
  for (const [name, value] of layout) {
    assert(hashOf(new Map(layout).set(name, value + 4)) !== hash, name);
  }
});

Deno.test("layout: columns are numbered without gaps, rows end before the next ones", () => {
  const k = freshKernel().exports;
  const columns = Object.entries(k).filter(([name]) => name.startsWith("ENDPOINT_") && name !== "ENDPOINT_COLUMNS");
  const numbers = columns.flatMap(([name, number]) =>
    name === "ENDPOINT_ADAPTERS" || name === "ENDPOINT_LISTED" ? [number, number as number + 1] : number
  );
  assertEquals(
    numbers.toSorted((a, b) => Number(a) - Number(b)),
    Array.from({ length: k.ENDPOINT_COLUMNS }, (_, i) => i),
  );
  for (
    const [end, row] of [
      [4 * (k.HEADER_BURST + 1), k.HEADER_BYTES],
      [k.CLUSTER_DEMAND + k.CLASSES * 8, k.CLUSTER_BYTES],
      [k.REQUEST_MATCH + k.HOLDERS * k.MATCH_BYTES, k.REQUEST_BYTES],
      [k.TENANT_PRESUMED + k.WINDOWS * 4, k.TENANT_BYTES],
      [k.QUESTION_MATCH + k.HOLDERS * k.MATCH_BYTES, k.QUESTION_BYTES],
      [k.PREDICTOR_COVARIANCE + k.FEATURES ** 2 * 8, k.PREDICTOR_BYTES],
      [k.RING_GRANTS + 4, k.RING_HEADER_BYTES],
    ]
  ) assert(end <= row, `${end} <= ${row}`);
  assertEquals(k.ENTRY_BYTES, 64, "a cache line");
});

Deno.test("layout: numbers that TypeScript repeats are the kernel's", () => {
  const k = freshKernel().exports;
  const phases = [
    k.PHASE_FREE,
    k.PHASE_WAITING,
    k.PHASE_GRANTING,
    k.PHASE_GRANTED,
    k.PHASE_PREFILLING,
    k.PHASE_DECODING,
  ];
  assertEquals(Object.values(RequestPhase) as number[], phases);
  assertEquals(SERVING_BIT, k.SERVING);
});

Deno.test("the kernel has no data of its own: it would be written over a memory that is everybody's", async () => {
  const wasm = await Deno.readFile(new URL("../../wasm/kernel.wasm", import.meta.url));
  const DATA = 11;
  const sections: number[] = [];
  for (let at = 8; at < wasm.length;) {
    sections.push(wasm[at++]);
    let [size, shift] = [0, 0];
    do {
      size |= (wasm[at] & 127) << shift;
      shift += 7;
    } while (wasm[at++] >= 128);
    at += size;
  }
  assert(sections.length > 5 && !sections.includes(DATA), `sections ${sections}`);
});
