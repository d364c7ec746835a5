// SPDX-License-Identifier: Apache-2.0
// The scheduler and its grants over a memory of their own, on a manual clock.

import { assert, assertEquals, assertRejects } from "@std/assert";
import { GatewayError } from "../../src/base/errors.ts";
import type { Grant, Waiting } from "../../src/scheduler/scheduler.ts";
import { EndpointState } from "../../src/tables/endpoint_table.ts";
import { schedulerParts, settle } from "../support/parts.ts";

/** A prompt that leaves an endpoint no room; no two share a prefix. */
const long = (name: string) => `${name} `.repeat(10_000);
const NOBODY = () => {};

async function codeOf(asking: Promise<unknown>): Promise<string> {
  return (await assertRejects(() => asking, GatewayError)).code;
}

Deno.test("SharedQueue: a grant counts its load on the endpoint, and takes it off once, however often it is disposed of", async () => {
  using parts = schedulerParts(1);
  const { queue, ask, table, rows: [row], requests } = parts;
  const grant = await queue.acquire(ask("hello"), NOBODY);
  assertEquals([table.requests(row), requests.open], [1, 1]);
  grant.leg.sent();
  grant.leg.firstToken();
  assertEquals(grant.leg.firstToken(), -1, "the first token is seen once");
  grant[Symbol.dispose]();
  grant[Symbol.dispose]();
  assertEquals([table.requests(row), requests.open], [0, 0]);
});

Deno.test("QueueGrant: keep moves the load to a grant that outlives the scope; the old one can do nothing any more", async () => {
  using parts = schedulerParts(2);
  const { queue, ask, table, rows } = parts;
  const load = () => rows.reduce((sum, row) => sum + table.requests(row), 0);
  const first = await queue.acquire(ask("hello"), NOBODY);
  const kept = first.keep();
  first[Symbol.dispose]();
  assertEquals([load(), first.tryAnother(), first.leg.firstToken()], [1, false, -1]);
  assertEquals(kept.leg.endpoint, first.leg.endpoint);
  kept[Symbol.dispose]();
  assertEquals(load(), 0);
});

Deno.test("QueueGrant: another endpoint gets the load, none twice, and none when all were tried", async () => {
  using parts = schedulerParts(3);
  const { queue, ask, table, rows } = parts;
  const grant = await queue.acquire(ask("hello"), NOBODY);
  const tried = [grant.leg.endpoint.row];
  for (let i = 0; i < 2; i++) {
    assert(grant.tryAnother());
    tried.push(grant.leg.endpoint.row);
    assertEquals(rows.map((row) => table.requests(row)), rows.map((row) => row === tried.at(-1) ? 1 : 0));
  }
  assertEquals(tried.toSorted(), rows.toSorted());
  assertEquals(grant.tryAnother(), false);
  assertEquals(table.requests(tried[2]), 1, "it stays where it is");
  grant[Symbol.dispose]();
  assertEquals(rows.map((row) => table.requests(row)), [0, 0, 0]);
});

Deno.test("SharedQueue: a request for one endpoint goes to it or nowhere", async () => {
  using parts = schedulerParts(2);
  const { queue, ask, table, rows, requests } = parts;
  const grant = await queue.acquire(ask("hello", { onlyEndpoint: rows[1] }), NOBODY);
  assertEquals([grant.leg.endpoint.row, grant.tryAnother()], [rows[1], false]);
  grant[Symbol.dispose]();
  table.setState(rows[1], EndpointState.unhealthy);
  assertEquals(await codeOf(queue.acquire(ask("hello", { onlyEndpoint: rows[1] }), NOBODY)), "no_endpoint");
  assertEquals(requests.open, 0);
});

Deno.test("SharedQueue: who finds no room waits, and is granted when the first token, or the end, makes some", async () => {
  for (const way of ["first token", "end"]) {
    using parts = schedulerParts(1);
    const { queue, ask, clock } = parts;
    const first = await queue.acquire(ask(long("a")), NOBODY);
    first.leg.sent();
    const waiters: Waiting[] = [];
    let granted: Grant | undefined;
    const second = queue.acquire(ask(long("b")), (waiter) => waiters.push(waiter)).then((grant) => granted = grant);
    await settle();
    assertEquals([waiters.length, queue.waiting, granted], [1, 1, undefined]);
    clock.advance(40);
    if (way === "end") first[Symbol.dispose]();
    else first.leg.firstToken();
    await second;
    assertEquals([queue.waiting, granted!.queuedMs], [0, 40], way);
    first[Symbol.dispose]();
    granted![Symbol.dispose]();
  }
});

Deno.test("SharedQueue: each way to stop waiting leaves no row, no load, no deadline", async () => {
  const ways: [string, (parts: ReturnType<typeof schedulerParts>, waiter: Waiting) => void][] = [
    ["client_closed", (_, waiter) => waiter.fail(new GatewayError("client_closed", "left"))],
    ["queue_timeout", ({ clock }) => clock.advance(1_010)],
    ["no_endpoint", ({ clock, table, rows }) => {
      table.setState(rows[0], EndpointState.unhealthy);
      clock.advance(60);
    }],
  ];
  for (const [code, stop] of ways) {
    using parts = schedulerParts(1);
    const { queue, ask, table, rows: [row], requests, deadlines } = parts;
    const first = await queue.acquire(ask(long("a")), NOBODY);
    first.leg.sent();
    let waiter: Waiting | undefined;
    const waiting = queue.acquire(ask(long("b")), (given) => waiter = given);
    waiting.catch(() => {});
    await settle();
    stop(parts, waiter!);
    assertEquals(await codeOf(waiting), code);
    assertEquals([queue.waiting, requests.open, table.requests(row), deadlines.size], [0, 1, 1, 0], code);
    first[Symbol.dispose]();
    assertEquals([requests.open, table.requests(row)], [0, 0]);
  }
});

Deno.test("SharedQueue: who is failed just as it was granted gives the endpoint back to the next", async () => {
  using parts = schedulerParts(1);
  const { queue, ask, requests } = parts;
  const first = await queue.acquire(ask(long("a")), NOBODY);
  first.leg.sent();
  const waiters: Waiting[] = [];
  const leaving = queue.acquire(ask(long("b")), (waiter) => waiters.push(waiter));
  const next = queue.acquire(ask(long("c")), (waiter) => waiters.push(waiter));
  leaving.catch(() => {});
  await settle();
  // It is failed before it can take up its grant.
  waiters[0].fail(new GatewayError("client_closed", "left"));
  first[Symbol.dispose]();
  assertEquals(await codeOf(leaving), "client_closed");
  const granted = await next;
  assertEquals([requests.open, queue.waiting], [1, 0]);
  granted[Symbol.dispose]();
});

Deno.test("SharedQueue: what waits is bounded in bytes, whatever its number", async () => {
  using parts = schedulerParts(1);
  const { queue, ask, requests } = parts;
  const first = await queue.acquire(ask(long("a")), NOBODY);
  first.leg.sent();
  const bounds = { requests: 100, bytes: 50_000, maxWaitMs: 1_000 };
  const limits = { classes: [bounds, bounds, bounds] as const, refreshMs: 50, preempt: false };
  const waiters: Waiting[] = [];
  const waiting = ["b", "c"].map((name) =>
    queue.acquire(ask(long(name), { queue: limits }), (waiter) => waiters.push(waiter))
  );
  for (const one of waiting) one.catch(() => {});
  await settle();
  assertEquals([waiters.length, requests.open], [2, 3], "20,000 bytes each");
  assertEquals(await codeOf(queue.acquire(ask(long("d"), { queue: limits }), NOBODY)), "queue_full");
  assertEquals(requests.open, 3);
  for (const waiter of waiters) waiter.fail(new Error("over"));
  await Promise.allSettled(waiting);
  first[Symbol.dispose]();
});

Deno.test("SharedQueue: bounds of the class, of the tenant's waiting and of its concurrency refuse at once", async () => {
  using parts = schedulerParts(1);
  const { queue, ask, requests } = parts;
  const first = await queue.acquire(ask(long("a")), NOBODY);
  first.leg.sent();
  const waiters: Waiting[] = [];
  const waiting = ["b", "c"].map((name) => queue.acquire(ask(long(name)), (waiter) => waiters.push(waiter)));
  for (const one of waiting) one.catch(() => {});
  await settle();
  assertEquals(await codeOf(queue.acquire(ask(long("d")), NOBODY)), "queue_full");
  const flow = { band: 1_000, tenant: 0, deadlineMs: 0 };
  assertEquals(
    await codeOf(queue.acquire(ask(long("d"), { flow: { ...flow, queued: 1 } }), NOBODY)),
    "queue_full",
  );
  assertEquals(
    await codeOf(queue.acquire(ask(long("d"), { flow: { ...flow, concurrency: 0 } }), NOBODY)),
    "tenant_concurrency",
  );
  assertEquals([requests.open, queue.waiting], [3, 2]);
  for (const waiter of waiters) waiter.fail(new GatewayError("client_closed", "left"));
  await Promise.allSettled(waiting);
  first[Symbol.dispose]();
  assertEquals(requests.open, 0);
});

Deno.test("SharedQueue: a worker has rows for so many requests and refuses the next", async () => {
  using parts = schedulerParts(1);
  const { queue, ask, requests } = parts;
  const grants: Grant[] = [];
  while (requests.open < requests.capacity) {
    const grant = await queue.acquire(ask("x"), NOBODY);
    grant.leg.sent();
    grant.leg.firstToken();
    grants.push(grant);
  }
  assertEquals(await codeOf(queue.acquire(ask("x"), NOBODY)), "overloaded");
  for (const grant of grants) grant[Symbol.dispose]();
  assertEquals(requests.open, 0);
});

Deno.test("SharedQueue: a batch request that was sent makes room for a critical one, once it is marked", async () => {
  using parts = schedulerParts(1);
  const { queue, ask, clock } = parts;
  const classes = ask("").queue.classes;
  const preempting = { classes, refreshMs: 50, preempt: true };
  let given = 0;
  const flow = (band: number) => ({ band, tenant: 0, deadlineMs: 0 });
  const batch = await queue.acquire(
    ask(long("batch"), { queue: preempting, flow: flow(1_500), preempt: () => given++ }),
    NOBODY,
  );
  batch.leg.sent();
  clock.advance(60);
  assertEquals(given, 0, "nobody needs its place");
  let urgent: Grant | undefined;
  const asking = queue.acquire(ask(long("urgent"), { queue: preempting, flow: flow(0) }), NOBODY)
    .then((grant) => urgent = grant);
  await settle();
  clock.advance(60);
  assertEquals([given, urgent], [1, undefined]);
  batch[Symbol.dispose]();
  await asking;
  clock.advance(60);
  assertEquals(given, 1, "it is given up once");
  urgent![Symbol.dispose]();
});

Deno.test("QueueGrant: times are the scheduler's clock's", async () => {
  using parts = schedulerParts(1);
  const { queue, ask, clock } = parts;
  const grant = await queue.acquire(ask("hello"), NOBODY);
  clock.advance(10);
  grant.leg.sent();
  clock.advance(200);
  const ms = grant.leg.firstToken();
  assert(ms > 0 && ms <= 210, `${ms} ms`);
  grant[Symbol.dispose]();
});

Deno.test("SharedQueue: closed, it leaves no timer and no watch behind", async () => {
  const parts = schedulerParts(1);
  const { queue, ask, clock } = parts;
  const first = await queue.acquire(ask(long("a")), NOBODY);
  first.leg.sent();
  let waiter: Waiting | undefined;
  const waiting = queue.acquire(ask(long("b")), (given) => waiter = given);
  waiting.catch(() => {});
  await settle();
  waiter!.fail(new GatewayError("draining", "bye"));
  await Promise.allSettled([waiting]);
  first[Symbol.dispose]();
  parts[Symbol.dispose]();
  clock.advance(10_000);
  assertEquals([queue.waiting, parts.deadlines.size], [0, 0]);
});
