// SPDX-License-Identifier: Apache-2.0
// What an endpoint without room takes all the same, and who puts up with another endpoint.

import { assert, assertEquals } from "@std/assert";
import { RequestPhase, type RequestRow } from "../../src/tables/request_table.ts";
import { ask as put, writeHashes } from "../support/kernel.ts";
import { setUp } from "../support/queue_fleet.ts";

Deno.test("queue: small requests are packed together; one that is large is passed by them until it is overdue", () => {
  const { kernels, table, rows: [endpoint], requests: [requests] } = setUp(1);
  const k = kernels[1].exports;
  table.setRate(endpoint, 1 / 32);
  let now = 1e12;
  const arrive = (bytes: number) => {
    const row = requests.tryOpen(0, 0, bytes)!;
    k.lookUpNothing();
    const result = put(kernels[1], { band: 1_000, tenant: 0, now }).arrive(row.row, row.generation);
    assert(result === endpoint || result === k.QUEUED, `${result}`);
    return row;
  };
  const dispatched = (row: RequestRow) => {
    if (row.phase !== RequestPhase.granted) return false;
    row.dispatch(now, false);
    return true;
  };
  // For some seconds after the first grant there may be others to come.
  const warm = arrive(1_000);
  assert(dispatched(warm));
  warm.firstToken(now);
  warm.release();
  now += 20_000;
  // 4 bytes a token: room is 8,192 bytes, a pack 32,768.
  const sent = [arrive(15_000), arrive(15_000)];
  assert(sent.every(dispatched));
  const large = arrive(100_000);
  const waiting = [arrive(3_000)];
  assertEquals([large.phase, waiting[0].phase], [RequestPhase.waiting, RequestPhase.waiting], "30,000 are ahead");
  let passed = 0;
  let rounds = 0;
  for (; large.phase === RequestPhase.waiting && rounds < 40; rounds++) {
    now += 450;
    const first = sent.shift()!;
    first.firstToken(now);
    k.fill(0, endpoint, now);
    first.release();
    waiting.push(arrive(15_000));
    for (const row of [...waiting]) {
      if (!dispatched(row)) continue;
      passed++;
      sent.push(row);
      waiting.splice(waiting.indexOf(row), 1);
    }
    if (sent.length === 0) break;
  }
  assertEquals(large.phase, RequestPhase.granted);
  assert(passed >= 3, `${passed} passed it before it was overdue`);
  assert(rounds >= 5 && waiting.length > 0, `${rounds} rounds, then ${waiting.length} waited behind it`);
  for (const row of [large, ...sent, ...waiting]) row.release();
  assertEquals(table.requests(endpoint), 0);
});

Deno.test("queue: who has waited for its cache takes another endpoint in the end, the dearer the later", () => {
  const { kernels, table, rows: [home, other], requests: [requests] } = setUp(2);
  const [control, worker] = kernels;
  const k = worker.exports;
  for (const row of [home, other]) table.setRate(row, 1 / 32);
  const prompt = Array.from({ length: 64 }, (_, i) => BigInt(1 + i));
  writeHashes(control, prompt);
  control.exports.indexInsertScratch(prompt.length, 9, home);
  const arrive = (bytes: number, hashes: bigint[]) => {
    const row = requests.tryOpen(0, 0, bytes)!;
    put(worker, {});
    k.lookUpNothing();
    writeHashes(worker, hashes);
    k.indexLookup(hashes.length, 9);
    return { row, result: put(worker, { now: 1e12 }).arrive(row.row, row.generation) };
  };
  // Capacity is dear: all others are busy.
  const busy = (now: number) => {
    const cluster = new Float64Array(worker.buffer, k.clusterOffset(0), 16);
    [cluster[k.CLUSTER_BUSY >>> 3], cluster[k.CLUSTER_BUSY_AT >>> 3]] = [0.9, now];
  };
  const first = arrive(50_000, [1_000n]);
  const second = arrive(50_000, [2_000n]);
  assertEquals([first.result, second.result].toSorted(), [home, other]);
  for (const { row } of [first, second]) row.dispatch(1e12, false);
  busy(1e12);
  const { row, result } = arrive(64 * 512 + 100, prompt);
  assertEquals(result, k.QUEUED);
  // The other endpoint is free at once; its prefill would take a second, and eight more from others.
  const free = first.result === other ? first : second;
  for (
    const [waited, phase] of [[0, RequestPhase.waiting], [5_000, RequestPhase.waiting], [20_000, RequestPhase.granted]]
  ) {
    const now = 1e12 + waited;
    if (waited === 0) free.row.firstToken(now);
    busy(now);
    k.fill(0, other, now);
    assertEquals(row.phase, phase, `after ${waited} ms`);
  }
});

Deno.test("queue: a short prompt goes beside a long one where the engine computes several at once, up to their number", () => {
  for (const parallel of [1, 3]) {
    const { kernels, table, rows: [endpoint], requests: [requests] } = setUp(1);
    const k = kernels[1].exports;
    table.setRate(endpoint, 1 / 32);
    table.limits.setParallel(endpoint, parallel);
    const arrive = (bytes: number) => {
      const row = requests.tryOpen(0, 0, bytes)!;
      k.lookUpNothing();
      put(kernels[1], { now: 1e12 }).arrive(row.row, row.generation);
      if (row.phase === RequestPhase.granted) row.dispatch(1e12, false);
      return row;
    };
    const sent = (rows: RequestRow[]) => rows.map(({ phase }) => phase === RequestPhase.prefilling);
    const all = [arrive(400_000), arrive(20_000), arrive(4_000), arrive(4_000), arrive(4_000)];
    const beside = parallel > 1;
    assertEquals(sent(all), [true, false, beside, beside, false], `${parallel} at once`);
    if (!beside) continue;
    // One of the short ones is done: the next may go.
    all[2].firstToken(1e12 + 500);
    assertEquals(k.fill(0, endpoint, 1e12 + 500), 1);
    assertEquals(all.map(({ phase }) => phase)[4], RequestPhase.granted);
    // What each of them weighed comes off, however it ends.
    for (const row of all) row.release();
    const prefills = new Int32Array(kernels[1].buffer, k.columnOffset(k.ENDPOINT_PREFILLS), 64);
    assertEquals(prefills[endpoint], 0);
  }
});
