// SPDX-License-Identifier: Apache-2.0
// The queue under random lives: several workers' kernels over one memory, requests that come, are granted by whoever sees
// room, leave while they wait, and end.

import { assert, assertEquals } from "@std/assert";
import { EndpointState } from "../../src/tables/endpoint_table.ts";
import { RequestPhase, type RequestRow } from "../../src/tables/request_table.ts";
import { tenantLoad } from "../../src/tables/tenant_table.ts";
import { ask as put } from "../support/kernel.ts";
import { setUp } from "../support/queue_fleet.ts";
import { Random, seed } from "../support/seed.ts";

interface One {
  row: RequestRow;
  worker: number;
  queued: boolean;
  band: number;
  tenant: number;
  dispatched: boolean;
}

/** The sums that the kernel keeps of its queue. */
function waitingIn(
  { kernels: [kernel] }: ReturnType<typeof setUp>,
): { requests: number; work: number; byClass: number[] } {
  const k = kernel.exports;
  const words = new Int32Array(kernel.buffer);
  const at = k.clusterOffset(0);
  return {
    requests: words[(at + k.CLUSTER_WAITING) >>> 2],
    work: words[(at + k.CLUSTER_WORK) >>> 2],
    byClass: [0, 1, 2].map((i) => words[(at + k.CLUSTER_CLASSES + 8 * i) >>> 2]),
  };
}

function lockOf({ kernels: [kernel] }: ReturnType<typeof setUp>): number {
  const k = kernel.exports;
  return new Int32Array(kernel.buffer)[(k.clusterOffset(0) + k.CLUSTER_LOCK) >>> 2];
}

Deno.test("queue: no request is lost or granted twice, nobody waits beside an endpoint with room, counters return to 0", () => {
  const random = new Random(seed);
  for (let round = 0; round < 15; round++) {
    const fleet = setUp(1 + random.below(8), seed + round);
    const { kernels, table, rows, requests } = fleet;
    const open: One[] = [];
    let now = 1e12;
    for (let step = 0; step < 2_000; step++) {
      now += random.below(100);
      const worker = random.below(3);
      const k = kernels[1 + worker].exports;
      const one = open.length > 0 ? random.pick(open) : undefined;
      const action = random.below(8);
      if (action < 3) {
        const row = requests[worker].tryOpen(0, 0, 1 + random.below(random.chance(0.1) ? 200_000 : 8_000));
        if (!row) continue;
        const [band, tenant] = [random.pick([900, 1_000, 1_100]), random.below(8)];
        k.lookUpNothing();
        const result = put(kernels[1 + worker], { band, tenant, now }).arrive(row.row, row.generation);
        assert(result >= 0 || result === k.QUEUED || table.serving(rows[0]) === false, `${result}`);
        if (result === -1) {
          row.release();
          continue;
        }
        open.push({ row, worker, queued: result === k.QUEUED, band, tenant, dispatched: false });
      } else if (one && action === 3) {
        // It leaves, whatever it is at.
        const { endpoint } = one.row;
        one.row.release();
        one.row.release();
        open.splice(open.indexOf(one), 1);
        if (!one.queued) k.fill(0, endpoint, now);
      } else if (one && action >= 4 && one.row.phase === RequestPhase.prefilling) {
        one.row.firstToken(now);
        k.fill(0, one.row.endpoint, now);
      } else if (one && one.row.phase === RequestPhase.decoding) {
        const { endpoint } = one.row;
        one.row.release();
        open.splice(open.indexOf(one), 1);
        k.fill(0, endpoint, now);
      } else if (action === 7) k.fillAll(0, now);
      for (const each of open) {
        if (each.queued && each.row.phase === RequestPhase.granted) each.queued = false;
        if (!each.dispatched && each.row.phase === RequestPhase.granted) {
          each.row.dispatch(now, false);
          each.dispatched = true;
        }
      }
      assertEquals(lockOf(fleet), 0, "the lock is open when nobody is in the queue");
      const waiting = open.filter(({ queued }) => queued);
      const sums = waitingIn(fleet);
      assertEquals(sums.requests, waiting.length);
      assertEquals(
        sums.byClass,
        [900, 1_000, 1_100].map((band) => waiting.filter((each) => each.band === band).length),
      );
      for (let tenant = 0; tenant < 8; tenant++) {
        const its = waiting.filter((each) => each.tenant === tenant).length;
        assertEquals(tenantLoad(kernels[0], tenant).waiting, its);
      }
      const onEndpoints = rows.reduce((sum, row) => sum + table.requests(row), 0);
      assertEquals(onEndpoints, open.length - waiting.length);
    }
    // Everybody gets through when there is time.
    for (let guard = 0; open.length > 0; guard++) {
      assert(guard < 100_000, `${open.length} requests are stuck`);
      now += 1_000;
      kernels[1].exports.fillAll(0, now);
      for (const each of [...open]) {
        if (each.row.phase === RequestPhase.granted) each.row.dispatch(now, false);
        else if (each.row.phase === RequestPhase.prefilling) each.row.firstToken(now);
        else if (each.row.phase === RequestPhase.decoding) {
          each.row.release();
          open.splice(open.indexOf(each), 1);
        }
      }
    }
    assertEquals(waitingIn(fleet), { requests: 0, work: 0, byClass: [0, 0, 0] });
    for (const row of rows) {
      assertEquals([table.requests(row), table.promptBytes(row), table.uncachedBytes(row)], [0, 0, 0]);
    }
  }
});

/** Opens a request with these properties; it waits when the endpoint is full. */
function ask(
  fleet: ReturnType<typeof setUp>,
  { bytes = 4_000, band = 1_000, tenant = 0, deadline = 0, now = 1e12 } = {},
) {
  const k = fleet.kernels[1].exports;
  const row = fleet.requests[0].tryOpen(0, 0, bytes)!;
  k.lookUpNothing();
  return { row, result: put(fleet.kernels[1], { band, tenant, deadline, now }).arrive(row.row, row.generation) };
}

/** Fills one endpoint, so that whoever comes next waits. */
function busyFleet(band = 1_000) {
  const fleet = setUp(1);
  const first = ask(fleet, { bytes: 400_000, band });
  assertEquals(first.result, fleet.rows[0]);
  first.row.dispatch(1e12, false);
  const free = (now: number) => {
    first.row.firstToken(now);
    return fleet.kernels[2].exports.fill(0, fleet.rows[0], now);
  };
  return { fleet, free };
}

Deno.test("queue: priority first, then the tenant that was served least for its weight, then the shortest prefill", () => {
  const { fleet, free } = busyFleet();
  const big = { bytes: 40_000 };
  const batch = ask(fleet, { ...big, band: 1_100 });
  const standard = ask(fleet, { ...big, bytes: 80_000 });
  const served = ask(fleet, { ...big, bytes: 60_000, tenant: 1 });
  fleet.kernels[0].exports.serve(1, 1e9);
  const critical = ask(fleet, { ...big, bytes: 120_000, band: 900 });
  const short = ask(fleet, { ...big, bytes: 50_000 });
  const all = [critical, short, standard, served, batch];
  for (const { result } of all) assertEquals(result, fleet.kernels[0].exports.QUEUED);
  // Each of them fills the endpoint alone: the order is that of the first tokens.
  let now = 1e12 + 200;
  assertEquals(free(now), 1);
  all.forEach(({ row }, i) => {
    assertEquals(row.phase, RequestPhase.granted, `number ${i} of the order`);
    row.dispatch(now, false);
    now += 200;
    row.firstToken(now);
    assertEquals(fleet.kernels[3].exports.fill(0, fleet.rows[0], now), i < all.length - 1 ? 1 : 0);
  });
});

Deno.test("queue: who waits longer than its backlog takes goes first; nobody waits for ever behind shorter ones", () => {
  const { fleet, free } = busyFleet();
  const long = ask(fleet, { bytes: 300_000 });
  let now = 1e12;
  let turns = 0;
  let last = free;
  // A new short one comes each time one is granted, and would always be shorter.
  for (; long.row.phase === RequestPhase.waiting; turns++) {
    assert(turns < 1_000, "the long one was never granted");
    now += 500;
    const short = ask(fleet, { bytes: 9_000, now });
    assert(last(now) <= 1);
    if (short.row.phase === RequestPhase.granted) short.row.dispatch(now, false);
    last = (at) => {
      if (short.row.phase === RequestPhase.prefilling) short.row.firstToken(at);
      return fleet.kernels[2].exports.fill(0, fleet.rows[0], at);
    };
  }
  assert(turns > 2, "a short one goes first for a while");
});

Deno.test("queue: who waits ages: a longer prefill goes before a shorter one that came long after it", () => {
  for (const [waited, first] of [[1_000, "short"], [40_000, "long"]] as const) {
    const { fleet, free } = busyFleet();
    // So much waits that nobody is overdue.
    ask(fleet, { bytes: 400_000 });
    const long = ask(fleet, { bytes: 50_000 });
    const short = ask(fleet, { bytes: 20_000, now: 1e12 + waited });
    assertEquals(free(1e12 + waited), 1);
    const granted = [long, short].map(({ row }) => row.phase === RequestPhase.granted);
    assertEquals(granted, first === "long" ? [true, false] : [false, true], `after ${waited} ms`);
  }
});

Deno.test("queue: what would come too late to its first token does not wait; an urgent one goes before others", () => {
  const { fleet, free } = busyFleet();
  const k = fleet.kernels[0].exports;
  assertEquals(ask(fleet, { deadline: 1e12 + 100 }).result, k.HOPELESS);
  assertEquals(ask(fleet, { deadline: 1e12 + 60_000, now: 1e12 + 18_500 }).result, k.QUEUED);
  const urgent = ask(fleet, { bytes: 40_000, deadline: 1e12 + 20_000 });
  assertEquals(urgent.result, k.QUEUED);
  ask(fleet, { bytes: 500, now: 1e12 + 18_900 });
  assertEquals(free(1e12 + 19_000), 1);
  assertEquals(urgent.row.phase, RequestPhase.granted);
});

Deno.test("queue: whether there is time is asked with what better classes take lately, and again while a request waits", () => {
  const { fleet } = busyFleet(1_100);
  const k = fleet.kernels[1].exports;
  // What the endpoint is at takes 20 s at the rate that is taken for granted; then there is time for these.
  const soon = 1e12 + 60_000;
  const waits = ask(fleet, { band: 1_100, deadline: soon });
  assertEquals(waits.result, k.QUEUED);
  // Critical requests that are let in take most of what the endpoint can do.
  const rate = 1 / fleet.table.rate(fleet.rows[0]);
  for (let i = 0; i < 10; i++) {
    const now = 1e12 + 100 * i;
    const one = ask(fleet, { band: 900, bytes: 900 * rate, now });
    assertEquals(one.result, k.QUEUED);
    one.row.release();
  }
  assertEquals(ask(fleet, { band: 1_100, deadline: soon, now: 1e12 + 1_000 }).result, k.HOPELESS);
  assertEquals(ask(fleet, { band: 900, deadline: soon, now: 1e12 + 1_000 }).result, k.QUEUED);
  // Ten minutes later such a demand is forgotten; the endpoint is late by as much, and believed to need as long again.
  assertEquals(ask(fleet, { band: 1_100, deadline: 1e12 + 1_300_000, now: 1e12 + 600_000 }).result, k.QUEUED);
  const refresh = (now: number) => {
    k.lookUpNothing();
    return k.refresh(waits.row.row, waits.row.generation, now);
  };
  assertEquals(refresh(1e12 + 1_000), 1);
  assertEquals(refresh(soon - 1), k.HOPELESS);
});

Deno.test("queue: endpoints that left or that asked to be left alone get nothing; without any, all may be asked", () => {
  const { fleet, free } = busyFleet();
  const { table, rows, kernels } = fleet;
  const waits = ask(fleet);
  table.backOff(rows[0], 1_000);
  assertEquals(free(1e12 + 10), 0);
  kernels[1].exports.lookUpNothing();
  assertEquals(kernels[1].exports.refresh(waits.row.row, waits.row.generation, 1e12 + 15), 1, "there is no other");
  assertEquals(kernels[1].exports.fillAll(0, 1e12 + 20), 1);
  assertEquals(waits.row.phase, RequestPhase.granted);
  table.setState(rows[0], EndpointState.draining);
  assertEquals(ask(fleet).result, -1);
});

Deno.test("queue: a worker that dies takes its waiting requests along, and nothing stays in the sums", () => {
  const { fleet } = busyFleet();
  for (let i = 0; i < 20; i++) ask(fleet, { tenant: i % 8, band: 900 + 100 * (i % 3) });
  assertEquals(waitingIn(fleet).requests, 20);
  fleet.kernels[0].exports.reap(1);
  assertEquals(waitingIn(fleet), { requests: 0, work: 0, byClass: [0, 0, 0] });
  assertEquals(fleet.table.requests(fleet.rows[0]), 0);
});

Deno.test("queue: the lock of a holder that is gone is taken over", () => {
  const { fleet, free } = busyFleet();
  const k = fleet.kernels[0].exports;
  const waits = ask(fleet);
  new Int32Array(fleet.kernels[0].buffer)[(k.clusterOffset(0) + k.CLUSTER_LOCK) >>> 2] = 12_345;
  assertEquals(free(1e12 + 10), 1);
  assertEquals(waits.row.phase, RequestPhase.granted);
});

Deno.test("queue: several gateways do not keep each other out of an endpoint", () => {
  const fleet = setUp(1);
  const k = fleet.kernels[1].exports;
  const [row] = fleet.rows;
  // Three chunks of others are ahead: one request more, and no second.
  fleet.table.setRemote(row, 3, 3 * 8_192);
  const first = ask(fleet, { bytes: 4_000 });
  assertEquals(first.result, row);
  first.row.dispatch(1e12, false);
  const second = ask(fleet, { bytes: 4_000 });
  assertEquals(second.result, k.QUEUED);
  assertEquals(k.fill(0, row, 1e12), 0);
  first.row.firstToken(1e12 + 100);
  assertEquals(k.fill(0, row, 1e12 + 100), 1);
  assertEquals(second.row.phase, RequestPhase.granted);
  // Half a chunk of theirs: small ones go together.
  fleet.table.setRemote(row, 1, 4_096);
  second.row.dispatch(1e12 + 100, false);
  second.row.firstToken(1e12 + 200);
  const small = Array.from({ length: 4 }, () => ask(fleet, { bytes: 800, now: 1e12 + 200 }).result);
  assertEquals(small, [row, row, row, k.QUEUED]);
  // Four chunks of others are enough.
  const full = setUp(1);
  full.table.setRemote(full.rows[0], 4, 4 * 8_192);
  assertEquals(ask(full, { bytes: 4_000 }).result, k.QUEUED);
});

Deno.test("preempt marks the last batch request before its first token, once each", () => {
  const { fleet } = busyFleet();
  const k = fleet.kernels[1].exports;
  assertEquals(k.preempt(0, 1_001), -1, "the one that prefills is no batch");
  const other = setUp(4);
  const batch = [0, 1].map((i) => {
    const one = ask(other, { band: 1_100, bytes: 9_000, now: 1e12 + i });
    one.row.dispatch(1e12 + i, false);
    return one.row;
  });
  const preempt = () => other.kernels[2].exports.preempt(0, 1_001);
  assertEquals([preempt(), preempt(), preempt()], [batch[1].row, batch[0].row, -1]);
  assertEquals(batch.map(({ preempted }) => preempted), [true, true]);
});
