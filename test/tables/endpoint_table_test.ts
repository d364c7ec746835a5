// SPDX-License-Identifier: Apache-2.0
import { assert, assertEquals, assertThrows } from "@std/assert";
import { parseConfig } from "../../src/config/load.ts";
import { EndpointState, EndpointTable } from "../../src/tables/endpoint_table.ts";
import { writeQueueParameters } from "../../src/tables/queue_parameters.ts";
import { RequestTable } from "../../src/tables/request_table.ts";
import { ask, decisionWord, freshKernels, readMatches, writeHashes } from "../support/kernel.ts";
import { Random, seed } from "../support/seed.ts";

function setUp(endpoints = 64) {
  const kernels = freshKernels({ endpoints });
  const table = new EndpointTable(kernels[0]);
  let port = 1;
  const add = (cluster: number) => table.add(cluster, { hostname: "e", port: port++ }, 10, 0);
  const remove = (cluster: number, row: number) => {
    table.setState(row, EndpointState.draining);
    return table.remove(cluster, row);
  };
  return { kernels, table, add, remove };
}

Deno.test("setLabels replaces the label sets and nothing else, whatever others change meanwhile", () => {
  const { kernels, table, add } = setUp();
  const { exports: k, buffer } = kernels[0];
  const row = add(0);
  const eligibility = () => new Int32Array(buffer)[(k.columnOffset(k.ENDPOINT_ELIGIBILITY) >>> 2) + row];
  const [a, b] = [1 << k.LABEL_BITS, 2 << k.LABEL_BITS];
  table.setLabels(row, a | b);
  assertEquals(eligibility(), k.SERVING | k.NOT_BACKED_OFF | a | b);
  table.backOff(row, 1_000);
  table.setState(row, EndpointState.trial);
  table.setLabels(row, b | k.NOT_BACKED_OFF);
  assertEquals(eligibility(), k.SERVING | k.TRIAL | b);
  const request = new RequestTable(kernels[1]).tryOpen(0, 0, 1)!;
  assert(request.grant(row, 0), "the one request of a trial");
  table.setLabels(row, 1 << 31);
  assertEquals(eligibility(), k.TRIAL | 1 << 31);
  table.setLabels(row, 0);
  assertEquals(eligibility(), k.TRIAL);
});

Deno.test("freed rows are used again the longest free one first", () => {
  const { add, remove } = setUp();
  const rows = Array.from({ length: 16 }, () => add(0));
  const order = [5, 2, 11].map((i) => rows[i]);
  for (const row of order) assert(remove(0, row));
  assertEquals([add(0), add(0), add(0)], order);
  assertEquals(add(0), 16, "then another group");
});

Deno.test("removeCluster gives groups back once no row is in use, the longest free one first", () => {
  const { table, add, remove } = setUp();
  const first = Array.from({ length: 20 }, () => add(1));
  const second = Array.from({ length: 32 }, () => add(2));
  assertThrows(() => add(3), RangeError, "limits.endpoints is 64");
  assertEquals(table.removeCluster(1), false);
  for (const row of first) assert(remove(1, row));
  assertEquals(table.removeCluster(1), true);
  assertEquals(table.rowsOf(1), []);
  const third = Array.from({ length: 32 }, () => add(3));
  assertEquals(new Set(third), new Set([...first.slice(0, 16), ...Array.from({ length: 16 }, (_, i) => 16 + i)]));
  assertEquals(table.rowsOf(2), second);
  assertThrows(() => add(1), RangeError);
  assertEquals(table.removeCluster(0), true, "one that never had any");
});

Deno.test("removeCluster: groups rest while a worker reads the cluster's list", () => {
  const { kernels, table, add, remove } = setUp(16);
  const { exports: k, buffer } = kernels[0];
  const row = add(1);
  const walking = (k.ringOffset(2) + k.RING_WALKING) >>> 2;
  const words = new Int32Array(buffer);
  words[walking] = 1 + 1;
  assert(remove(1, row));
  assert(table.removeCluster(1));
  assertThrows(() => add(2), RangeError, "limits.endpoints is 16");
  assertEquals(k.clusterReset(1), 0);
  words[walking] = 1 + 2;
  assertEquals(add(2), row);
  assertEquals(k.clusterReset(1), 1);
});

Deno.test("clusters that come and go leak no group, and choices stay within their cluster", () => {
  const random = new Random(seed);
  const { kernels, table, add, remove } = setUp(96);
  const rows = new Map([0, 1, 2, 3].map((cluster) => [cluster, [] as number[]]));
  for (let step = 0; step < 3_000; step++) {
    const cluster = random.below(4);
    const mine = rows.get(cluster)!;
    const action = random.below(10);
    if (action < 5) {
      try {
        mine.push(add(cluster));
      } catch (error) {
        assert(error instanceof RangeError);
      }
    } else if (action < 8 && mine.length > 0) {
      const [row] = mine.splice(random.below(mine.length), 1);
      assert(remove(cluster, row));
    } else if (action === 8 && random.chance(0.2)) {
      for (const row of mine.splice(0)) assert(remove(cluster, row));
      assert(table.removeCluster(cluster));
      assertEquals(kernels[0].exports.clusterReset(cluster), 1);
    }
    assertEquals(table.rowsOf(cluster).toSorted(), mine.toSorted());
    const worker = random.pick(kernels);
    worker.exports.lookUpNothing();
    const chosen = ask(worker, { cluster, policy: worker.exports.POLICY_RANDOM }).choose();
    if (mine.length === 0) assertEquals(chosen, -1);
    else assert(mine.includes(chosen));
    assertEquals(decisionWord(worker, worker.exports.QUESTION_CANDIDATES), mine.length);
  }
  for (const [cluster, mine] of rows) {
    for (const row of mine) assert(remove(cluster, row));
    assert(table.removeCluster(cluster));
  }
  assertEquals(new Set(Array.from({ length: 96 }, () => add(0))).size, 96, "all rows are there");
});

Deno.test("what a removed row held is forgotten, and a stale hint to another cluster's row moves no score", () => {
  const { kernels, table, add, remove } = setUp(48);
  const { exports: k, buffer } = kernels[0];
  writeQueueParameters(kernels[0], parseConfig({}).queue, 4);
  const hold = (row: number) => {
    writeHashes(kernels[0], [1n, 2n]);
    k.indexInsertScratch(2, 9, row);
  };
  const lookUp = () => {
    writeHashes(kernels[0], [1n, 2n]);
    new Int32Array(buffer)[(k.decisionOffset() + k.QUESTION_CHUNKS) >>> 2] = 2;
    k.indexLookup(2, 9);
    return [...readMatches(kernels[0]).keys()];
  };
  const gone = add(1);
  hold(gone);
  assertEquals(lookUp(), [gone]);
  assert(remove(1, gone));
  assertEquals(lookUp(), []);
  // Its group is another cluster's, as the first one there as here; somebody who is late says that it holds the prompt.
  assert(table.removeCluster(1));
  const mine = [add(1), add(1)];
  add(3);
  assertEquals(add(2), gone);
  const stranger = gone + 1;
  new Int32Array(buffer)[(k.columnOffset(k.ENDPOINT_CAPACITY) >>> 2) + stranger] = 10;
  new Int32Array(buffer)[(k.columnOffset(k.ENDPOINT_IDLE) >>> 2) + stranger] = 10;
  hold(stranger);
  assertEquals(lookUp(), [stranger]);
  for (const policy of [k.POLICY_INFERENCE_LB, k.POLICY_EXPECTED_TTFT, k.POLICY_LATE_BINDING]) {
    const chosen = ask(kernels[0], { cluster: 1, policy, promptBytes: 1_024, now: 1e12 }).choose();
    assert(mine.includes(chosen), `${chosen} by policy ${policy}`);
    const scores = new Float32Array(buffer, k.scoreOffset(), 2);
    assertEquals(scores[0], scores[1], `policy ${policy}`);
  }
});
