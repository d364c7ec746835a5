// SPDX-License-Identifier: Apache-2.0
// What a long life does to counters and clocks of 32 bits, and to sums: each test begins just before.

import { assert, assertEquals } from "@std/assert";
import { parseConfig } from "../../src/config/load.ts";
import { EndpointPulse } from "../../src/tables/endpoint_pulse.ts";
import { EndpointTable } from "../../src/tables/endpoint_table.ts";
import { writeQueueParameters } from "../../src/tables/queue_parameters.ts";
import { RequestTable } from "../../src/tables/request_table.ts";
import { readSaves, SaveRingWriter, setSharing } from "../../src/tables/save_ring.ts";
import { writeTenant } from "../../src/tables/tenant_table.ts";
import { ask, freshKernel, freshKernels, readMatches, writeHashes } from "../support/kernel.ts";

/** Of the stamps of endpoints: sixteenths of a ms in 32 bits. */
const STAMPS_MS = 2 ** 32 / 16;

Deno.test("long life: the generation of a row passes 0, which would say that it was not opened", () => {
  const kernel = freshKernels()[1];
  const requests = new RequestTable(kernel);
  const words = new Int32Array(kernel.buffer);
  const first = requests.tryOpen(0, 0, 100)!;
  const at = (kernel.exports.requestOffset(first.row) + kernel.exports.REQUEST_GENERATION) >>> 2;
  first.release();
  words[at] = -3;
  for (let i = 0; i < 6; i++) {
    const row = requests.tryOpen(0, 0, 100)!;
    assertEquals(row?.row, first.row, `opening ${i}`);
    row.release();
    assertEquals(requests.open, 0);
  }
  assert(words[at] > 0);
});

Deno.test("long life: the silence of an endpoint is right over the wrap of its stamps, and with a clock that is ahead", () => {
  const pulse = new EndpointPulse(freshKernel());
  const wrap = Math.ceil(1.7e12 / STAMPS_MS) * STAMPS_MS;
  for (const from of [wrap - 500, wrap, 1.7e12]) {
    pulse.hear(0, from);
    for (const ms of [0, 1, 600, 3_600_000, 48 * 3_600_000]) assertEquals(pulse.silentMs(0, from + ms), ms);
    for (const ahead of [0.0625, 1, 60_000]) assertEquals(pulse.silentMs(0, from - ahead), 0, "heard just now");
  }
});

Deno.test("long life: prefill times are right over the wrap of an endpoint's stamps", () => {
  const kernel = freshKernels()[1];
  const endpoint = new EndpointTable(kernel).add(0, { hostname: "e", port: 1 }, 10, 0);
  const requests = new RequestTable(kernel);
  const wrap = Math.ceil(1.7e12 / STAMPS_MS) * STAMPS_MS;
  for (const [granted, token] of [[-900, -400], [-100, 400], [100, 600]]) {
    const row = requests.tryOpen(0, 0, 4_000)!;
    assert(row.grant(endpoint, 0, wrap + granted));
    row.dispatch(wrap + granted, false);
    assertEquals(row.firstToken(wrap + token), 500);
    row.release();
  }
});

Deno.test("long life: the prefix index keeps the newest over the wrap of its clock, and beside a worker that is ahead", () => {
  const kernel = freshKernel({ prefixes: 8 }); // one bucket
  const { exports: k, buffer } = kernel;
  const words = new Int32Array(buffer);
  const row = new EndpointTable(kernel).add(0, { hostname: "e", port: 1 }, 1_000, 0);
  const insert = (hash: number) => {
    writeHashes(kernel, [BigInt(hash)]);
    k.indexInsertScratch(1, 0, row);
  };
  const held = (hash: number) => {
    writeHashes(kernel, [BigInt(hash)]);
    ask(kernel, {});
    k.indexLookup(1, 0);
    return readMatches(kernel).size === 1;
  };
  words[k.HEADER_CLOCK] = -5;
  for (let hash = 1; hash <= 12; hash++) insert(hash);
  for (let hash = 8; hash <= 12; hash++) assert(held(hash), `${hash} of 12`);
  assert(!held(1));
  // Another worker has drawn the tick before, and comes to the bucket later.
  const tick = words[k.HEADER_CLOCK];
  words[k.HEADER_CLOCK] = tick + 1;
  insert(13);
  words[k.HEADER_CLOCK] = tick;
  insert(14);
  assertEquals([held(13), held(14)], [true, true]);
});

Deno.test("long life: an endpoint's stamps of insertion wrap; what it held lately is held, what it held long ago is not", () => {
  const kernel = freshKernel();
  const { exports: k, buffer } = kernel;
  const words = new Int32Array(buffer);
  const row = new EndpointTable(kernel).add(0, { hostname: "e", port: 1 }, 100, 0);
  const inserted = (k.columnOffset(k.ENDPOINT_INSERTED) >>> 2) + row;
  for (const from of [-50, 2 ** 31 - 50]) {
    // It forgets all that it held, which moves its count by two pins and an epoch.
    words[inserted] = (from - 2 * 16 * 100 - 2 * 63 - 2) | 0;
    k.indexForget(row);
    assert(Math.abs(words[inserted] - (from | 0)) < 8);
    const hashes = Array.from({ length: 300 }, (_, i) => BigInt(1_000_000 + (from & 0xffff) * 1_000 + i));
    for (const hash of hashes) {
      writeHashes(kernel, [hash]);
      k.indexInsertScratch(1, 0, row);
    }
    const held = hashes.map((hash) => {
      writeHashes(kernel, [hash]);
      ask(kernel, {});
      k.indexLookup(1, 0);
      return readMatches(kernel).size === 1;
    });
    assertEquals([held[0], held[150], held[250], held[299]], [false, false, true, true]);
  }
});

Deno.test("long life: the ring of prefixes goes on over the wrap of its positions", () => {
  const [control, worker] = freshKernels({ ringWords: 64 });
  const { exports: k, buffer } = control;
  const words = new Int32Array(buffer);
  const ring = k.ringOffset(1);
  for (const at of [ring + k.RING_WRITTEN, ring + k.RING_READ]) words[at >>> 2] = -16 | 0;
  setSharing(control, true);
  const writer = new SaveRingWriter(worker);
  for (let i = 0; i < 40; i++) {
    writer.write(i, 1, 2, new Int32Array([i, 0, i + 1, 0]));
    assertEquals(readSaves(control, 1), [{ row: i, salt: 1, hashes: [BigInt(i), BigInt(i + 1)] }]);
  }
  assertEquals(writer.dropped, 0);
});

Deno.test("long life: a tenant that never has more than one waiting is served at the rate at which it is", () => {
  const [control, kernel] = freshKernels({ tenants: 4 });
  const k = kernel.exports;
  writeQueueParameters(control, parseConfig({}).queue, 4);
  for (let tenant = 0; tenant < 4; tenant++) writeTenant(control, tenant, { weight: 1 });
  const endpoint = new EndpointTable(control).add(0, { hostname: "e", port: 1 }, 1_000, 0);
  const requests = new RequestTable(kernel);
  let now = 1e12;
  const open = () => {
    const row = requests.tryOpen(0, 0, 40_000)!;
    k.lookUpNothing();
    ask(kernel, { tenant: 1, now, promptBytes: 40_000 }).arrive(row.row, row.generation);
    return row;
  };
  // Each waits half a second for the one before: 80 bytes a ms.
  for (let i = 0; i < 2_000; i++) {
    const first = open();
    first.dispatch(now, false);
    const second = open();
    now += 500;
    first.firstToken(now);
    first.release();
    k.fill(0, endpoint, now);
    assert(second.granted);
    second.dispatch(now, false);
    now += 1_000;
    second.firstToken(now);
    second.release();
  }
  const rows = Array.from({ length: 20 }, open);
  const backlog = 19 * 40_000;
  const ms = k.backlogMs(0, 1);
  assert(ms > backlog / 160 && ms < backlog / 40, `${ms} ms for ${backlog} bytes at 80 bytes a ms`);
  for (const row of rows) row.release();
});
