// SPDX-License-Identifier: Apache-2.0
// The scores that reckon in milliseconds, beside the same formulas in plain TypeScript.

import { assert, assertAlmostEquals, assertEquals } from "@std/assert";
import { parseConfig } from "../../src/config/load.ts";
import { EndpointTable } from "../../src/tables/endpoint_table.ts";
import { PredictorTable } from "../../src/tables/predictor_table.ts";
import { writeQueueParameters } from "../../src/tables/queue_parameters.ts";
import { ask, decisionWord, freshKernel, writeHashes } from "../support/kernel.ts";
import { Random, seed } from "../support/seed.ts";

const NOW = 1e12;
const THETA = [4, -8, -3, 280, -50, 37];

interface Endpoint {
  row: number;
  requests: number;
  uncached: number;
  remote: number;
  rate: number;
  sinceMs: number;
  matched: number;
}

/** Endpoints with random loads and rates, and a prompt of which some hold a part. */
function scene(random: Random, round: number) {
  const kernel = freshKernel({ endpoints: 128 }, round);
  const k = kernel.exports;
  const { queue } = parseConfig({});
  writeQueueParameters(kernel, queue, 4);
  const predictors = new PredictorTable(kernel);
  predictors.reset(0);
  predictors.restore(0, { samples: 50, theta: THETA, covariance: Array(36).fill(0), bytesPerToken: 4 });
  predictors.restore(predictors.stepRow(0), {
    samples: 9,
    theta: [10, 0.5, 0, 0, 0, 0],
    covariance: Array(36).fill(0),
    bytesPerToken: 0,
  });
  predictors.setRate(0, 0.03);
  const table = new EndpointTable(kernel);
  const words = new Int32Array(kernel.buffer);
  const chunks = random.below(60);
  const bytes = chunks * 512 + random.below(512);
  const hashes = Array.from({ length: chunks }, (_, i) => BigInt(1 + i));
  const endpoints = Array.from({ length: 1 + random.below(40) }, (_, i): Endpoint => {
    const row = table.add(1, { hostname: "e", port: 1 + i }, 1_000, 0);
    const one = {
      row,
      requests: random.below(30),
      uncached: random.chance(0.3) ? 0 : random.below(random.pick([3_000, 60_000])),
      remote: random.chance(0.5) ? 0 : random.below(random.pick([9_000, 60_000])),
      rate: 0.01 + 0.1 * random.next(),
      sinceMs: random.below(3_000),
      matched: 0,
    };
    words[(k.columnOffset(k.ENDPOINT_REQUESTS) >>> 2) + row] = one.requests;
    words[(k.columnOffset(k.ENDPOINT_UNCACHED) >>> 2) + row] = one.uncached;
    words[(k.columnOffset(k.ENDPOINT_HEAD_AT) >>> 2) + row] = Number(
      BigInt.asIntN(32, BigInt((NOW - one.sinceMs) * 16)),
    );
    table.setRate(row, one.rate);
    table.setRemote(row, 0, one.remote);
    return one;
  });
  k.lookUpNothing();
  if (chunks > 0) {
    for (const one of new Set(Array.from({ length: random.below(5) }, () => random.pick(endpoints)))) {
      one.matched = 1 + random.below(chunks);
      writeHashes(kernel, hashes);
      k.indexInsertScratch(one.matched, 9, one.row);
    }
    writeHashes(kernel, hashes);
    words[(k.decisionOffset() + k.QUESTION_CHUNKS) >>> 2] = chunks;
    k.indexLookup(chunks, 9);
  }
  const floats = new Float32Array(kernel.buffer);
  const score = (row: number) => {
    const groups = new Int32Array(
      kernel.buffer,
      k.positionGroupOffset(),
      decisionWord(kernel, k.QUESTION_POSITIONS) / 16,
    );
    return floats[(k.scoreOffset() >>> 2) + groups.indexOf(row >> 4) * 16 + row % 16];
  };
  const choose = (policy: number) => ask(kernel, { cluster: 1, policy, promptBytes: bytes, now: NOW }).choose();
  return { kernel, k, queue, bytes, endpoints, score, choose, floats };
}

const ROOM = 8_192;
const SHARED_ROOM = 4 * ROOM;
const OWN_ROOM = 2_048;
const PACK = 4 * ROOM;

function aheadMs({ rate, uncached, remote, sinceMs }: Endpoint): number {
  const ahead = uncached + remote;
  if (ahead === 0) return 0;
  const left = rate * ahead - (uncached === 0 ? 0 : sinceMs);
  return Math.max(left, rate * Math.min(ahead, ROOM)) + Math.max(0, -left);
}

/** Whether an endpoint takes a request of so many uncached bytes. */
function takes({ rate, uncached, remote, sinceMs }: Endpoint, work: number): boolean {
  const ahead = uncached + remote;
  if (uncached === 0) return ahead < SHARED_ROOM;
  const fits = ahead < ROOM || ahead + work <= PACK;
  return fits && sinceMs - rate * ahead < rate * ROOM && (remote === 0 || uncached < OWN_ROOM);
}

function close(actual: number, expected: number, what: string): void {
  assertAlmostEquals(actual, expected, 1e-3 * Math.max(10, Math.abs(expected)), what);
}

Deno.test("late_binding scores by work ahead, flight and recomputation; it takes room that costs no more than the slack", () => {
  const random = new Random(seed);
  for (let round = 0; round < 200; round++) {
    const { kernel, k, queue, bytes, endpoints, score, choose } = scene(random, round);
    const busy = random.pick([0, 0.3, 0.6, 0.99]);
    const cluster = new Float64Array(kernel.buffer, k.clusterOffset(1), 16);
    cluster[k.CLUSTER_BUSY >>> 3] = busy;
    cluster[k.CLUSTER_BUSY_AT >>> 3] = NOW;
    // So much of the beginning draws nobody, as many share it.
    const shared = random.chance(0.5) ? 0 : random.below(40);
    new Int32Array(kernel.buffer)[(k.decisionOffset() + k.QUESTION_SHARED) >>> 2] = 512 * shared;
    const drawn = ({ matched }: Endpoint) => uncached(Math.max(matched, shared));
    // The mean speed, as ms a byte.
    const mean = endpoints.length / endpoints.reduce((sum, { rate }) => sum + 1 / rate, 0);
    const weight = ({ rate }: Endpoint) => {
      const ratio = Math.SQRT2 * rate / mean;
      return ratio > 0.85 && ratio < 2.4 ? 1 : 2 ** Math.floor(Math.log2(ratio));
    };
    const inFlight = (one: Endpoint) => one.requests * weight(one);
    const minFlight = Math.min(...endpoints.map(inFlight));
    const meanFlight = endpoints.reduce((sum, one) => sum + inFlight(one), 0) / endpoints.length;
    const waits = queue.charge * busy / (1 - busy);
    const charge = Math.min(queue.max_charge, waits + queue.stall_charge * meanFlight);
    const chosen = choose(k.POLICY_LATE_BINDING);
    const uncached = (matched: number) =>
      Math.max(400, bytes - Math.min(bytes, matched === 0 ? 0 : (matched + 1) * 512));
    const flight = (one: Endpoint) => {
      const more = inFlight(one) - minFlight;
      return queue.balance_ms * more / Math.max(8, meanFlight);
    };
    const cost = (one: Endpoint) => aheadMs(one) + flight(one) + (one.rate + charge * mean) * drawn(one);
    for (const one of endpoints) close(-score(one.row), cost(one), `row ${one.row} of round ${round}`);
    const best = Math.min(...endpoints.map(cost));
    const free = endpoints.filter((one) => takes(one, uncached(one.matched))).toSorted((a, b) => cost(a) - cost(b))[0];
    const wanted = free && cost(free) - flight(free) <= best + queue.slack_ms ? cost(free) : best;
    const its = endpoints.find(({ row }) => row === chosen)!;
    assert(cost(its) - wanted <= queue.tie_ms + 0.01 * wanted + 1, `round ${round}: ${cost(its)}, not ${wanted}`);
  }
});

Deno.test("expected_ttft scores by prediction; slo packs where the objectives are kept, and falls back where none does", () => {
  const random = new Random(seed + 1);
  for (let round = 0; round < 200; round++) {
    const { kernel, k, queue, bytes, endpoints, score, choose, floats } = scene(random, round);
    const [a, b, c, d, e, f] = THETA;
    const own = ({ matched, rate }: Endpoint) => {
      const [input, cached] = [bytes / 4_000, Math.min(bytes, matched * 512) / 4_000];
      const ms = a * input ** 2 + b * cached ** 2 + c * input * cached + d * input + e * cached + f;
      return rate / 0.03 * Math.max(1, ms);
    };
    const ttft = (one: Endpoint) => aheadMs(one) + own(one) + queue.request_ms * one.requests;
    const first = choose(k.POLICY_EXPECTED_TTFT);
    for (const one of endpoints) close(-score(one.row), ttft(one), `row ${one.row} of round ${round}`);
    const best = Math.min(...endpoints.map(ttft));
    // Endpoints that differ by less than the tie are alike.
    const nearBest = (one: Endpoint) => assert(ttft(one) <= 1.001 * best + queue.tie_ms + 0.01, `round ${round}`);
    nearBest(endpoints.find(({ row }) => row === first)!);

    const [ttftMs, tpotMs] = [best * random.pick([0.5, 1.5, 4]), random.pick([0, 12, 20])];
    floats[(k.decisionOffset() + k.QUESTION_TTFT_SLO) >>> 2] = ttftMs;
    floats[(k.decisionOffset() + k.QUESTION_TPOT_SLO) >>> 2] = tpotMs;
    const second = choose(k.POLICY_SLO);
    const packed = endpoints.find(({ row }) => row === second)!;
    const keeps = (one: Endpoint) => ttft(one) <= ttftMs && (tpotMs === 0 || 10 + 0.5 * (one.requests + 1) <= tpotMs);
    assertEquals(decisionWord(kernel, k.QUESTION_SLO_MET) > 0, endpoints.some(keeps), `round ${round}`);
    if (!endpoints.some(keeps)) nearBest(packed);
    else {
      assert(keeps(packed), `round ${round}`);
      const merit = (one: Endpoint) => own(one) - 0.01 * ttft(one);
      assert(merit(packed) <= Math.min(...endpoints.filter(keeps).map(merit)) + queue.tie_ms + 1);
    }
  }
});
