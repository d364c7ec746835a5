// SPDX-License-Identifier: Apache-2.0
import { assert, assertEquals } from "@std/assert";
import type { AttachedKernel } from "../../wasm/kernel.ts";
import { EndpointTable } from "../../src/tables/endpoint_table.ts";
import { decisionWord, freshKernel, freshKernels, readMatches, writeHashes } from "../support/kernel.ts";
import { Random, seed } from "../support/seed.ts";
import { CHUNK_BYTES, TwinIndex } from "./twin.ts";

function fleet(kernel: AttachedKernel, endpoints: number, capacity: (i: number) => number): number[] {
  const table = new EndpointTable(kernel);
  return Array.from({ length: endpoints }, (_, i) => table.add(0, { hostname: "e", port: i + 1 }, capacity(i), 0));
}

function insert(kernel: AttachedKernel, hashes: bigint[], salt: number, row: number): void {
  writeHashes(kernel, hashes);
  kernel.exports.indexInsertScratch(hashes.length, salt, row);
}

function lookUp(kernel: AttachedKernel, hashes: bigint[], salt: number) {
  writeHashes(kernel, hashes);
  kernel.exports.indexLookup(hashes.length, salt);
  return { everywhere: decisionWord(kernel, kernel.exports.QUESTION_EVERYWHERE), matches: readMatches(kernel) };
}

Deno.test("prefix index agrees with its twin on random conversations, ageing and overflow included", () => {
  const random = new Random(seed);
  for (let round = 0; round < 20; round++) {
    const kernel = freshKernel();
    const endpoints = 1 + random.below(12);
    const rows = fleet(kernel, endpoints, () => 20 + random.below(200));
    const table = new EndpointTable(kernel);
    const usage = new Map(rows.map((row) => [row, random.next() * 0.8]));
    for (const row of rows) table.setGauges(row, { waiting: 0, running: 0, kvUsage: usage.get(row)! });
    const idle = new Int32Array(kernel.buffer, kernel.exports.columnOffset(kernel.exports.ENDPOINT_IDLE), 64);
    const twin = new TwinIndex(rows, (row) => table.capacityChunks(row), (row) => idle[row]);
    const running: { prompt: bigint[]; salt: number; row: number; pinned: number }[] = [];
    // `add` forgets what a row held before, which moves its clock.
    const { exports: k } = kernel;
    const column = (number: number) => new Int32Array(kernel.buffer, k.columnOffset(number), 64);
    const clock = column(k.ENDPOINT_INSERTED);
    const frontier = column(k.ENDPOINT_FRONTIER);
    const findable = column(k.ENDPOINT_FINDABLE);
    for (const row of rows) {
      twin.inserted.set(row, clock[row]);
      twin.frontier.set(row, frontier[row]);
    }
    for (let step = 0; step < (round === 0 ? 8_000 : 400); step++) {
      // A tree of prefixes: branch b at depth d is the same for all prompts that share the way there.
      let path = 0n;
      const prompt = Array.from({ length: random.below(20) }, () => {
        path = path * 3n + BigInt(1 + random.below(random.chance(0.8) ? 1 : 3));
        return path * 0x9e3779b97f4a7c15n & ((1n << 64n) - 1n);
      });
      const salt = random.below(2);
      const row = random.pick(rows);
      const action = random.below(7);
      if (action === 0) {
        insert(kernel, prompt, salt, row);
        twin.insert(prompt, salt, row);
      } else if (action < 3) {
        writeHashes(kernel, prompt);
        const pinned = kernel.exports.indexPinScratch(prompt.length, salt, row);
        assertEquals(pinned, twin.pin(prompt, salt, row));
        running.push({ prompt, salt, row, pinned });
      } else if (action < 5 && running.length > 0) {
        const [one] = running.splice(random.below(running.length), 1);
        writeHashes(kernel, one.prompt);
        kernel.exports.indexUnpinScratch(one.prompt.length, one.pinned, one.salt, one.row);
        twin.unpin(one.prompt, one.pinned, one.salt, one.row);
      } else if (action === 6) {
        table.setGauges(row, { waiting: 0, running: 0, kvUsage: random.next() * 0.8 });
        twin.evict(row);
      }
      assertEquals(lookUp(kernel, prompt, salt), twin.lookUp(prompt, salt));
    }
    for (const row of rows) {
      assertEquals([clock[row], frontier[row]], [twin.inserted.get(row), twin.frontier.get(row)]);
      assertEquals(findable[row], twin.findable(row));
    }
  }
});

Deno.test("prefix index: a conversation is held however often others come again, until new ones need its room", () => {
  const kernel = freshKernel();
  const [row] = fleet(kernel, 1, () => 200);
  const { exports: k } = kernel;
  const turn = (prompt: bigint[]) => {
    writeHashes(kernel, prompt);
    const pinned = k.indexPinScratch(prompt.length, 0, row);
    writeHashes(kernel, prompt);
    k.indexUnpinScratch(prompt.length, pinned, 0, row);
  };
  const chunks = (from: number, count: number) => Array.from({ length: count }, (_, i) => BigInt(from + i));
  const quiet = chunks(1, 60);
  turn(quiet);
  for (let i = 0; i < 200; i++) turn(chunks(1_000, 100));
  assertEquals(lookUp(kernel, quiet, 0).matches.get(row), 60 * CHUNK_BYTES, "160 of 200, and nobody needs more");
  turn(chunks(2_000, 36));
  assertEquals(lookUp(kernel, quiet, 0).matches.get(row), 60 * CHUNK_BYTES);
  turn(chunks(3_000, 60));
  assertEquals(lookUp(kernel, quiet, 0).matches.size, 0);
  assertEquals(lookUp(kernel, chunks(1_000, 100), 0).matches.get(row), 100 * CHUNK_BYTES, "it came again later");
});

Deno.test("prefix index: a beginning behind which as many prompts part as there are endpoints is shared", () => {
  for (const endpoints of [1, 3, 8]) {
    const kernel = freshKernel();
    const k = kernel.exports;
    const rows = fleet(kernel, endpoints, () => 10_000);
    const shared = (prompt: bigint[]) => {
      lookUp(kernel, prompt, 0);
      return decisionWord(kernel, k.QUESTION_SHARED) / CHUNK_BYTES;
    };
    // One conversation goes on and on: nobody parts from it.
    const conversation = [1n, 2n];
    for (let turn = 0; turn < 30; turn++) {
      conversation.push(BigInt(100 + turn));
      insert(kernel, conversation, 0, rows[0]);
      insert(kernel, conversation, 0, rows[0]);
    }
    assertEquals(shared(conversation), 0);
    const least = Math.max(2, endpoints);
    for (let i = 0; i < least; i++) {
      assertEquals(shared([1n, 2n, 7n]), 0, `${i} of ${least}`);
      insert(kernel, [1n, 2n, BigInt(1_000 + i)], 0, rows[0]);
    }
    assertEquals([shared([1n, 2n, 7n]), shared([1n, 2n]), shared([1n, 3n])], [2, 2, 0]);
    // It is forgotten when that was thousands of requests ago.
    for (let i = 0; i < 8 * 1_024; i++) insert(kernel, [BigInt(1_000_000 + i)], 0, rows[0]);
    assertEquals(shared([1n, 2n, 7n]), 0);
  }
});

Deno.test("prefix index: what is in use is held whatever comes, and ages from when it was last in use", () => {
  const kernel = freshKernel();
  const [row] = fleet(kernel, 1, () => 10);
  writeHashes(kernel, [1n, 2n]);
  const pinned = kernel.exports.indexPinScratch(2, 0, row);
  for (let i = 0; i < 15; i++) insert(kernel, [100n + BigInt(i)], 0, row);
  assertEquals(lookUp(kernel, [1n, 2n], 0).matches.get(row), 2 * CHUNK_BYTES, "in use");
  writeHashes(kernel, [1n, 2n]);
  kernel.exports.indexUnpinScratch(2, pinned, 0, row);
  for (let i = 0; i < 8; i++) insert(kernel, [200n + BigInt(i)], 0, row);
  assertEquals(lookUp(kernel, [1n, 2n], 0).matches.get(row), 2 * CHUNK_BYTES, "the newest out of use");
  for (let i = 0; i < 9; i++) insert(kernel, [300n + BigInt(i)], 0, row);
  assertEquals(lookUp(kernel, [1n, 2n], 0).matches.size, 0);
});

Deno.test("prefix index: what an engine needs for running requests it has given up", () => {
  const kernel = freshKernel();
  const [row] = fleet(kernel, 1, () => 10);
  const table = new EndpointTable(kernel);
  insert(kernel, [1n, 2n, 3n, 4n], 0, row);
  table.setGauges(row, { waiting: NaN, running: NaN, kvUsage: NaN });
  assertEquals(lookUp(kernel, [1n, 2n, 3n, 4n], 0).matches.get(row), 4 * CHUNK_BYTES, "not known is not full");
  table.setGauges(row, { waiting: 0, running: 9, kvUsage: 0.75 });
  assertEquals(lookUp(kernel, [1n, 2n, 3n, 4n], 0).matches.get(row), 2 * CHUNK_BYTES);
  table.setGauges(row, { waiting: 0, running: 0, kvUsage: 0 });
  assertEquals(
    lookUp(kernel, [1n, 2n, 3n, 4n], 0).matches.get(row),
    2 * CHUNK_BYTES,
    "what is gone does not come back",
  );
});

Deno.test("prefix index forgets what an engine can no longer hold", () => {
  const kernel = freshKernel();
  const [row] = fleet(kernel, 1, () => 10);
  const first = [1n, 2n, 3n];
  insert(kernel, first, 0, row);
  assertEquals(lookUp(kernel, first, 0).matches.get(row), 3 * CHUNK_BYTES);
  for (let i = 0; i < 8; i++) insert(kernel, [400n + BigInt(i)], 0, row);
  assertEquals(lookUp(kernel, first, 0).matches.get(row), 2 * CHUNK_BYTES, "the tail goes first");
  for (let i = 0; i < 8; i++) insert(kernel, [200n + BigInt(i)], 0, row);
  assertEquals(lookUp(kernel, first, 0).matches.size, 0);
});

Deno.test("prefix index: a chunk that all hold says nothing; one that most hold is at those that had it last", () => {
  for (const endpoints of [8, 9, 20, 32]) {
    const kernel = freshKernel();
    const rows = fleet(kernel, endpoints, () => 10);
    for (const row of rows.slice(0, -1)) insert(kernel, [7n], 0, row);
    const holders = lookUp(kernel, [7n], 0);
    assertEquals(holders.matches.size, 7, `${endpoints - 1} of ${endpoints}`);
    assert(!holders.matches.has(rows.at(-1)!));
    assertEquals(holders.everywhere, 0);
    insert(kernel, [7n], 0, rows.at(-1)!);
    assertEquals(lookUp(kernel, [7n], 0), { everywhere: CHUNK_BYTES, matches: new Map() });
    // One holder ages out: the others are known again.
    for (let i = 0; i < 20; i++) insert(kernel, [1000n + BigInt(i)], 0, rows.at(-1)!);
    const { everywhere, matches } = lookUp(kernel, [7n], 0);
    assertEquals(everywhere, 0);
    assert(matches.size > 0 && !matches.has(rows.at(-1)!));
  }
});

Deno.test("prefix index: 8 to 31 holders of 32 are never mixed up with those that do not hold a prefix", () => {
  for (let holders = 8; holders < 32; holders++) {
    const kernel = freshKernel();
    const rows = fleet(kernel, 32, () => 1_000);
    const prompt = Array.from({ length: 50 }, (_, i) => BigInt(i + 1));
    for (const row of rows.slice(0, holders)) insert(kernel, prompt, 0, row);
    const { everywhere, matches } = lookUp(kernel, prompt, 0);
    assertEquals([everywhere, matches.size], [0, 7]);
    for (const [row, bytes] of matches) assert(rows.indexOf(row) < holders && bytes === 50 * CHUNK_BYTES);
  }
});

Deno.test("prefix index: who holds a whole conversation is found behind a shared prompt that many hold", () => {
  const kernel = freshKernel();
  const rows = fleet(kernel, 16, () => 1_000);
  const shared = [1n, 2n, 3n];
  const conversation = [...shared, 11n, 12n, 13n];
  insert(kernel, conversation, 0, rows[0]);
  // The others come later, and take all places of the shared prompt.
  for (const row of rows.slice(1, 12)) insert(kernel, [...shared, 100n + BigInt(row)], 0, row);
  assertEquals(lookUp(kernel, conversation, 0).matches.get(rows[0]), 6 * CHUNK_BYTES);
  // One of those that are recorded loses it.
  kernel.exports.indexForget(rows[11]);
  assertEquals(lookUp(kernel, conversation, 0).matches.get(rows[0]), 6 * CHUNK_BYTES);
  insert(kernel, shared, 0, rows[10]);
  assertEquals(lookUp(kernel, conversation, 0).matches.get(rows[0]), 6 * CHUNK_BYTES);
});

Deno.test("prefix index: forget empties an endpoint, and only that", () => {
  const kernel = freshKernel();
  const [a, b] = fleet(kernel, 2, () => 100);
  insert(kernel, [1n, 2n], 0, a);
  insert(kernel, [1n, 2n], 0, b);
  kernel.exports.indexForget(a);
  assertEquals(lookUp(kernel, [1n, 2n], 0).matches, new Map([[b, 2 * CHUNK_BYTES]]));
});

Deno.test("prefix index is bounded: far more prompts than slots leave the newest findable", () => {
  const random = new Random(seed);
  const kernel = freshKernel({ prefixes: 1_024 });
  const [row] = fleet(kernel, 1, () => 1_000_000);
  const prompts = Array.from({ length: 20_000 }, () => {
    const words = new BigUint64Array(random.bytes(8).buffer);
    return [...words];
  });
  for (const prompt of prompts) insert(kernel, prompt, 0, row);
  const found = (list: bigint[][]) => list.filter((prompt) => lookUp(kernel, prompt, 0).matches.size > 0).length;
  assert(found(prompts.slice(-200)) >= 190, "the newest are there");
  assert(found(prompts) <= 1_024, "no more than the slots");
});

Deno.test("prefix index survives two instances writing the same buckets in turn", () => {
  const random = new Random(seed);
  const kernels = freshKernels({ prefixes: 64 });
  const rows = fleet(kernels[0], 16, () => 50);
  for (let step = 0; step < 5_000; step++) {
    const kernel = random.pick(kernels);
    const prompt = Array.from({ length: 1 + random.below(5) }, (_, i) => BigInt(1 + random.below(50) * 10 + i));
    insert(kernel, prompt, 0, random.pick(rows));
    const { matches } = lookUp(random.pick(kernels), prompt, 0);
    for (const [row, bytes] of matches) assert(rows.includes(row) && bytes <= prompt.length * CHUNK_BYTES);
  }
});

Deno.test("prefix index: what most endpoints have in use is hot, up to where it is not", () => {
  for (const endpoints of [2, 5, 8, 16, 40]) {
    const kernel = freshKernel();
    const k = kernel.exports;
    const rows = fleet(kernel, endpoints, () => 1_000);
    const most = Math.min(7, Math.floor(endpoints / 2) + 1);
    const hot = () => {
      lookUp(kernel, [1n, 2n, 3n], 0);
      return decisionWord(kernel, k.QUESTION_HOT);
    };
    const pinned = rows.slice(0, most).map((row, i) => {
      assertEquals(hot(), 0, `${i} of ${endpoints}`);
      const prompt = [1n, 2n, 1_000n + BigInt(i)];
      writeHashes(kernel, prompt);
      return { prompt, row, at: k.indexPinScratch(3, 0, row) };
    });
    assertEquals(hot(), 2 * CHUNK_BYTES);
    const { prompt, row, at } = pinned[0];
    writeHashes(kernel, prompt);
    k.indexUnpinScratch(3, at, 0, row);
    assertEquals(hot(), 0, "one less");
  }
});
