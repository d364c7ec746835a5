// SPDX-License-Identifier: Apache-2.0
import { assert, assertEquals } from "@std/assert";
import { EndpointAdapters } from "../../src/tables/endpoint_adapters.ts";
import { EndpointState, EndpointTable } from "../../src/tables/endpoint_table.ts";
import { ask, decisionWord, freshKernel, writeHashes } from "../support/kernel.ts";
import { Random, seed } from "../support/seed.ts";
import { CHUNK_BYTES, pickBest, scoreInferenceLb, TwinRandom, type TwinRow } from "./twin.ts";

const RANDOM = 1, ROUND_ROBIN = 2, LEAST_REQUEST = 3;

/** A kernel whose cluster 1 has `count` rows with random loads, and the same rows for the twin. */
function randomFleet(random: Random, count: number, kernelSeed: number) {
  const kernel = freshKernel({ endpoints: Math.max(64, count * 2 + 64) }, kernelSeed);
  const k = kernel.exports;
  const table = new EndpointTable(kernel);
  const words = new Int32Array(kernel.buffer);
  const heavy = random.chance(0.3);
  const rows: number[] = [];
  const twins: TwinRow[] = [];
  for (let i = 0; i < count; i++) {
    // Another cluster takes rows in between, so that this one's groups are not contiguous.
    if (random.chance(0.2)) {
      try {
        table.add(0, { hostname: "other", port: 1 + i }, 100, 0);
      } catch (error) {
        assert(error instanceof RangeError);
      }
    }
    const labels = random.below(8) << k.LABEL_BITS;
    const row = table.add(1, { hostname: "e", port: 1 + i }, 1_000, labels);
    const unavailable = random.chance(0.2);
    if (unavailable) table.setState(row, EndpointState.unhealthy);
    const local = random.below(heavy ? 5_000 : 5);
    const remote = random.below(3);
    const localPrompt = random.below(heavy ? 2 ** 31 : 4_000);
    words[(k.columnOffset(k.ENDPOINT_REQUESTS) >>> 2) + row] = local;
    words[(k.columnOffset(k.ENDPOINT_PROMPT) >>> 2) + row] = localPrompt;
    table.setRemote(row, remote, 100);
    const backedOff = random.chance(0.2);
    if (backedOff) table.backOff(row, 1_000);
    const penalty = random.chance(0.2) ? random.below(4) : 0;
    table.setPenalty(row, penalty);
    const adapters = Array.from({ length: random.below(4) }, () => 1 + random.below(64));
    new EndpointAdapters(kernel).setHeld(row, adapters);
    rows.push(row);
    twins.push({
      eligibility: (unavailable ? labels : labels | k.SERVING) | (backedOff ? 0 : k.NOT_BACKED_OFF),
      requests: local + remote + penalty,
      adapters,
      promptBytes: localPrompt + 100,
      matched: 0,
    });
  }
  return { kernel, rows, twins };
}

Deno.test("inference_lb scores and picks exactly like its twin", () => {
  const random = new Random(seed);
  for (let round = 0; round < 300; round++) {
    const count = random.pick([0, 1, 2, 3, 7, 15, 16, 17, 33, 100, 257]);
    const { kernel, rows, twins } = randomFleet(random, count, round);
    const k = kernel.exports;
    const weights = random.pick<[number, number, number]>([[2, 1, 3], [0, 1, 3], [2, 0, 0], [1.5, 0.3, 7]]);
    const percent = random.pick([0, 5, 10, 50, 100]);
    const mask = k.SERVING | (random.below(4) << k.LABEL_BITS);
    const adapter = random.pick([0, 1 + random.below(64)]);
    const chunks = random.below(10);
    const hashes = Array.from({ length: chunks }, (_, i) => BigInt(1 + i));
    k.lookUpNothing();
    if (chunks > 0 && count > 0) {
      for (const i of new Set(Array.from({ length: random.below(6) }, () => random.below(count)))) {
        const length = 1 + random.below(chunks);
        writeHashes(kernel, hashes);
        k.indexInsertScratch(length, 9, rows[i]);
        twins[i].matched = length * CHUNK_BYTES;
      }
      writeHashes(kernel, hashes);
      new Int32Array(kernel.buffer)[(k.decisionOffset() + k.QUESTION_CHUNKS) >>> 2] = chunks;
      k.indexLookup(chunks, 9);
    }
    const [cacheWeight, requestWeight, prefillWeight] = weights;
    const asked = { cluster: 1, mask, percent, cacheWeight, requestWeight, prefillWeight, adapter, adapterWeight: 1.5 };
    const chosen = ask(kernel, asked).choose();
    // Those that want to be left alone are candidates only when nobody else is.
    const fits = (bits: number) => twins.some(({ eligibility }) => (eligibility & bits) === bits);
    const wanted = fits(mask | k.NOT_BACKED_OFF) ? mask | k.NOT_BACKED_OFF : mask;
    const expected = scoreInferenceLb(twins, wanted, chunks, weights, adapter, 1.5);
    const candidates = expected.filter((score) => score !== -Infinity).length;
    assertEquals(decisionWord(kernel, k.QUESTION_CANDIDATES), candidates);
    if (candidates === 0) {
      assertEquals(chosen, -1);
      continue;
    }
    // Position order is row order within the cluster's list.
    const positions = decisionWord(kernel, k.QUESTION_POSITIONS);
    const scores = new Float32Array(kernel.buffer, k.scoreOffset(), positions);
    const groups = new Int32Array(kernel.buffer, k.positionGroupOffset(), positions / 16);
    const position = (row: number) => groups.indexOf(row >> 4) * 16 + row % 16;
    rows.forEach((row, i) => assertEquals(scores[position(row)], expected[i], `row ${row} of round ${round}`));
    const best = Math.min(candidates, Math.max(1, Math.trunc(Math.fround(Math.fround(candidates * percent) / 100))));
    const inOrder = rows.map((row, i) => ({ row, i })).sort((a, b) => position(a.row) - position(b.row));
    const picked = pickBest(Float32Array.from(inOrder, ({ i }) => expected[i]), best, new TwinRandom(round));
    assertEquals(chosen, inOrder[picked].row);
    assertEquals(decisionWord(kernel, k.QUESTION_MATCHED), twins[inOrder[picked].i].matched);
  }
});

Deno.test("pickBest draws evenly from the k best, ties at the border by lot", () => {
  const kernel = freshKernel({}, seed);
  const k = kernel.exports;
  const table = new EndpointTable(kernel);
  const words = new Int32Array(kernel.buffer);
  // Queues 0 1 1 1 2 2: the two best are the first and one of three.
  const rows = [0, 1, 1, 1, 2, 2].map((queue, i) => {
    const row = table.add(0, { hostname: "e", port: 1 + i }, 1, 0);
    words[(k.columnOffset(k.ENDPOINT_REQUESTS) >>> 2) + row] = queue;
    return row;
  });
  ask(kernel, {}).gather(k.SERVING, k.ENDPOINT_PROMPT);
  k.scoreLeastRequest();
  const counts = new Map<number, number>();
  for (let i = 0; i < 60_000; i++) {
    const position = k.pickBest(2);
    counts.set(position, (counts.get(position) ?? 0) + 1);
  }
  assertEquals([...counts.keys()].sort(), rows.slice(0, 4));
  const shares = rows.slice(0, 4).map((row) => counts.get(row)! / 60_000);
  [1 / 2, 1 / 6, 1 / 6, 1 / 6].forEach((share, i) => assert(Math.abs(shares[i] - share) < 0.02, `${shares}`));
});

Deno.test("random, round_robin and least_request choose among the candidates only", () => {
  const random = new Random(seed);
  for (let round = 0; round < 100; round++) {
    const { kernel, rows, twins } = randomFleet(random, 1 + random.below(40), round);
    const k = kernel.exports;
    k.lookUpNothing();
    const serving = rows.filter((_, i) => (twins[i].eligibility & k.SERVING) !== 0);
    const preferred = rows.filter((_, i) => (twins[i].eligibility & 3) === (k.SERVING | k.NOT_BACKED_OFF));
    const candidates = preferred.length > 0 ? preferred : serving;
    const seen = new Set<number>();
    for (let i = 0; i < candidates.length; i++) {
      seen.add(ask(kernel, { cluster: 1, policy: ROUND_ROBIN }).choose());
    }
    assertEquals(seen, new Set(candidates.length === 0 ? [] : candidates), "each one once in a round");
    if (candidates.length === 0) continue;
    for (let i = 0; i < 10; i++) {
      assert(candidates.includes(ask(kernel, { cluster: 1, policy: RANDOM }).choose()));
    }
    const min = Math.min(...candidates.map((row) => twins[rows.indexOf(row)].requests));
    const chosen = ask(kernel, { cluster: 1, policy: LEAST_REQUEST }).choose();
    assertEquals(twins[rows.indexOf(chosen)].requests, min);
  }
});

Deno.test("excluded rows are no candidates and do not count in the extremes", () => {
  const kernel = freshKernel();
  const k = kernel.exports;
  const table = new EndpointTable(kernel);
  const words = new Int32Array(kernel.buffer);
  const rows = [0, 50, 60].map((queue, i) => {
    const row = table.add(0, { hostname: "e", port: 1 + i }, 1, 0);
    words[(k.columnOffset(k.ENDPOINT_REQUESTS) >>> 2) + row] = queue;
    return row;
  });
  const decision = k.decisionOffset() >>> 2;
  words[decision + (k.QUESTION_EXCLUDED >>> 2)] = 1;
  words[decision + (k.QUESTION_EXCLUDE >>> 2)] = rows[0];
  k.lookUpNothing();
  assertEquals(ask(kernel, {}).choose(), rows[1]);
  assertEquals(new Float32Array(kernel.buffer)[decision + (k.QUESTION_MIN_REQUESTS >>> 2)], 50);
  words[decision + (k.QUESTION_EXCLUDED >>> 2)] = 3;
  rows.forEach((row, i) => words[decision + (k.QUESTION_EXCLUDE >>> 2) + i] = row);
  assertEquals(ask(kernel, {}).choose(), -1);
});

Deno.test("a restricted choice is among its rows, and restricts that one choice alone", () => {
  const random = new Random(seed);
  for (let round = 0; round < 200; round++) {
    const { kernel, rows } = randomFleet(random, random.pick([1, 5, 33, 100]), round);
    const k = kernel.exports;
    const words = new Int32Array(kernel.buffer);
    const allowed = new Uint8Array(kernel.buffer, k.allowedOffset(), words[k.HEADER_ENDPOINTS] >>> 3);
    const serving = rows.filter((row) => new EndpointTable(kernel).state(row) === EndpointState.available);
    const among = rows.filter(() => random.chance(0.3));
    allowed.fill(0);
    for (const row of among) allowed[row >>> 3] |= 1 << (row & 7);
    words[(k.decisionOffset() + k.QUESTION_RESTRICTED) >>> 2] = 1;
    const left = among.filter((row) => serving.includes(row));
    const chosen = ask(kernel, { cluster: 1, policy: random.pick([RANDOM, ROUND_ROBIN, LEAST_REQUEST]) }).choose();
    assert(left.length === 0 ? chosen === -1 : left.includes(chosen), `${chosen} of ${left}`);
    assertEquals(words[(k.decisionOffset() + k.QUESTION_RESTRICTED) >>> 2], 0);
    const free = ask(kernel, { cluster: 1, policy: LEAST_REQUEST }).choose();
    assertEquals(free >= 0, serving.length > 0);
  }
});
