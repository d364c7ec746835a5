// SPDX-License-Identifier: Apache-2.0
import { assert, assertEquals, assertThrows } from "@std/assert";
import { attachKernel, compileKernel, createSharedKernel } from "../../wasm/kernel.ts";
import { SMALL } from "../support/kernel.ts";

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
  assertThrows(() => attachKernel(createSharedKernel(module, SMALL), 3, 1), Error, "no such worker block");
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
    [first.clusterOffset(SMALL.clusters), first.nextBlockOffset(0)],
    [first.nextBlockOffset(4), first.ordinalOffset(0)],
    [first.ordinalOffset(4), first.columnOffset(0)],
    [first.columnOffset(19) + 64 * 4, first.identityOffset(0)],
    [first.identityOffset(64), first.requestOffset(0)],
    [first.requestOffset(SMALL.workers * SMALL.requestsPerWorker), first.decisionOffset()],
    [first.decisionOffset() + 256, first.queueOffset()],
    [first.hashOffset() + SMALL.promptChunks * 8, first.textOffset()],
    [last.textOffset() + SMALL.promptChunks * 512, last.metricOffset(0)],
    [last.metricOffset(SMALL.workers), first.ringOffset(0)],
    [last.ringOffset(SMALL.workers), first.pinOffset(0)],
    [first.pinOffset(SMALL.pins / 8), first.predictorOffset(0)],
    [first.predictorOffset(SMALL.predictors), first.sampleOffset(0)],
    [first.sampleOffset(SMALL.workers), shared.memory.buffer.byteLength],
  ];
  for (const [end, start] of ends) assert(end <= start, `${end} <= ${start}`);
  assertEquals(first.columnOffset(0) % 64, 0);
});
