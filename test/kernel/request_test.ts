// SPDX-License-Identifier: Apache-2.0
import { assert, assertEquals } from "@std/assert";
import { EndpointState, EndpointTable } from "../../src/tables/endpoint_table.ts";
import { GrantWatch } from "../../src/tables/grant_watch.ts";
import { questionFields } from "../../src/tables/question.ts";
import { RequestPhase, type RequestRow, RequestTable } from "../../src/tables/request_table.ts";
import { attachKernel } from "../../wasm/kernel.ts";
import { freshKernels, sharedKernel } from "../support/kernel.ts";
import { Random, seed } from "../support/seed.ts";

Deno.test("request rows and counters agree after random lives, releases repeated", () => {
  const random = new Random(seed);
  const kernels = freshKernels();
  const endpoints = new EndpointTable(kernels[0]);
  const rows = [1, 2, 3].map((port) => endpoints.add(0, { hostname: "e", port }, 10, 0));
  const tables = [1, 2].map((worker) => new RequestTable(kernels[worker]));
  const open: {
    row: RequestRow;
    prompt: number;
    requests: number;
    held: number;
    uncached: number;
    endpoint: number;
  }[] = [];
  for (let step = 0; step < 20_000; step++) {
    const table = random.pick(tables);
    const one = open.length > 0 ? random.pick(open) : undefined;
    const action = random.below(6);
    if (action === 0) {
      const prompt = random.below(100_000);
      const row = table.tryOpen(0, 0, prompt);
      if (table.capacity === table.open) assert(row === undefined || table.open === table.capacity);
      if (row) open.push({ row, prompt, requests: 0, held: 0, uncached: 0, endpoint: -1 });
    } else if (one && action === 1 && one.row.phase === RequestPhase.waiting) {
      one.endpoint = random.pick(rows);
      const cached = random.below(200) * 512;
      assert(one.row.grant(one.endpoint, cached));
      one.uncached = Math.max(0, one.prompt - (cached === 0 ? 0 : cached + 512));
      one.requests = 1;
      one.held = one.prompt;
    } else if (one && action === 2 && one.row.phase === RequestPhase.granted) one.row.dispatch(step, false);
    else if (one && action === 3 && one.row.phase === RequestPhase.prefilling) {
      assert(one.row.firstToken(step) >= 0);
      assertEquals(one.row.firstToken(step), -1);
      one.held = one.uncached = 0;
    } else if (one && action === 4 && one.row.phase === RequestPhase.prefilling) {
      one.row.returnToWaiting();
      one.requests = one.held = one.uncached = 0;
    } else if (one && action === 5) {
      one.row.release();
      one.row.release();
      one.row.firstToken(step);
      open.splice(open.indexOf(one), 1);
    }
    for (const row of rows) {
      const mine = open.filter((other) => other.endpoint === row);
      assertEquals(endpoints.requests(row), mine.reduce((sum, { requests }) => sum + requests, 0));
      assertEquals(endpoints.promptBytes(row), mine.reduce((sum, { held }) => sum + held, 0));
      assertEquals(endpoints.uncachedBytes(row), mine.reduce((sum, { uncached }) => sum + uncached, 0));
    }
  }
});

Deno.test("tryOpen says no when every row is open", () => {
  const table = new RequestTable(freshKernels({ requestsPerWorker: 2 })[1]);
  const first = table.tryOpen(0, 0, 1)!;
  assert(table.tryOpen(0, 0, 1));
  assertEquals(table.tryOpen(0, 0, 1), undefined);
  first.release();
  assert(table.tryOpen(0, 0, 1));
});

Deno.test("grant refuses an endpoint that stopped serving and leaves no load there", () => {
  const [kernel] = freshKernels();
  const endpoints = new EndpointTable(kernel);
  const row = endpoints.add(0, { hostname: "e", port: 1 }, 10, 0);
  endpoints.setState(row, EndpointState.draining);
  const request = new RequestTable(kernel).tryOpen(0, 0, 500)!;
  assert(!request.grant(row, 0));
  assertEquals([request.phase, endpoints.requests(row), endpoints.promptBytes(row)], [RequestPhase.waiting, 0, 0]);
});

// A granter that is held up for very long is passed by, so that nobody waits for a dead one: on a busy machine one attempt may
// be that, and not all of them.
Deno.test("a release waits for a grant that is being made, and takes its load off", async () => {
  const { shared, kernel } = sharedKernel();
  const k = kernel.exports;
  const words = new Int32Array(kernel.buffer);
  const endpoints = new EndpointTable(kernel);
  const endpoint = endpoints.add(0, { hostname: "e", port: 1 }, 10, 0);
  const table = new RequestTable(attachKernel(shared, 1, 1));
  let waited = false;
  for (let attempt = 0; attempt < 20 && !waited; attempt++) {
    const request = table.tryOpen(0, 0, 100)!;
    const before = endpoints.requests(endpoint);
    assert(request.grant(endpoint, 0));
    // As it is in the middle of its grant.
    const phase = (k.requestOffset(request.row) + k.REQUEST_PHASE) >>> 2;
    Atomics.store(words, phase, RequestPhase.granting);
    const flags = new Int32Array(new SharedArrayBuffer(4));
    const worker = new Worker(new URL("./release_worker.ts", import.meta.url), { type: "module" });
    worker.postMessage({ shared, flags, row: request.row, generation: request.generation });
    while (Atomics.load(flags, 0) === 0) await new Promise((resolve) => setTimeout(resolve));
    for (let look = 0; look < 100_000 && Atomics.load(flags, 0) === 1; look++);
    waited =
      Atomics.compareExchange(words, phase, RequestPhase.granting, RequestPhase.granted) === RequestPhase.granting;
    while (Atomics.load(flags, 0) !== 2) await new Promise((resolve) => setTimeout(resolve));
    worker.terminate();
    if (waited) assertEquals([endpoints.requests(endpoint), endpoints.promptBytes(endpoint)], [before, 0]);
  }
  assert(waited, "it never waited");
});

Deno.test("reap releases what a dead worker held and nothing else", () => {
  const kernels = freshKernels();
  const endpoints = new EndpointTable(kernels[0]);
  const row = endpoints.add(0, { hostname: "e", port: 1 }, 10, 0);
  const [dead, alive] = [1, 2].map((worker) => new RequestTable(kernels[worker]));
  for (let i = 0; i < 10; i++) {
    const request = dead.tryOpen(0, 0, 100)!;
    if (i > 0) request.grant(row, 0);
    if (i > 3) request.dispatch(0, false);
    if (i > 6) request.firstToken(0);
  }
  const survivor = alive.tryOpen(0, 0, 7)!;
  survivor.grant(row, 0);
  assertEquals(kernels[0].exports.reap(1), 10);
  assertEquals(dead.tryOpen(0, 0, 1), undefined, "a worker that was given up opens nothing");
  assertEquals([endpoints.requests(row), endpoints.promptBytes(row)], [1, 7]);
  survivor.release();
  assertEquals([endpoints.requests(row), endpoints.promptBytes(row)], [0, 0]);
});

Deno.test("a grant by another worker is told to the owner; all are in order", async () => {
  const kernels = freshKernels();
  const endpoints = new EndpointTable(kernels[0]);
  const row = endpoints.add(0, { hostname: "e", port: 1 }, 10, 0);
  const table = new RequestTable(kernels[1]);
  const watch = new GrantWatch(kernels[1]);
  const [own, other] = [table.tryOpen(0, 0, 7)!, table.tryOpen(0, 0, 7)!];
  const { count } = watch;
  assert(own.grant(row, 0));
  const afterOwn = watch.count;
  const alive = setInterval(() => {}, 1_000); // a pending waitAsync does not keep the event loop alive
  const told = watch.changed(afterOwn);
  new Int32Array(kernels[2].buffer)[questionFields(kernels[2]).row] = row;
  queueMicrotask(() => kernels[2].exports.requestGrant(other.row, other.generation, 0));
  await told;
  assertEquals([other.phase, other.endpoint], [RequestPhase.granted, row]);
  assert(count <= own.grantNumber && own.grantNumber < other.grantNumber && other.grantNumber < watch.count);
  assert(own.granted && other.granted);
  await watch.changed(count);
  const woken = watch.changed(watch.count);
  watch.wake();
  await woken;
  for (const request of [own, other]) request.release();
  clearInterval(alive);
});

Deno.test("a row is freed for another endpoint only without requests, and its identity changes generation", () => {
  const [kernel] = freshKernels();
  const endpoints = new EndpointTable(kernel);
  const row = endpoints.add(2, { hostname: "old", port: 1 }, 10, 0);
  const generation = endpoints.generation(row);
  const request = new RequestTable(kernel).tryOpen(2, 0, 1)!;
  request.grant(row, 0);
  endpoints.setState(row, EndpointState.draining);
  assertEquals(endpoints.remove(2, row), false);
  request.release();
  assertEquals(endpoints.remove(2, row), true);
  assertEquals(endpoints.rowsOf(2), []);
  while (endpoints.add(2, { hostname: "::1", port: 2 }, 10, 0) !== row);
  assertEquals(endpoints.address(row), { hostname: "::1", port: 2 });
  assert(endpoints.generation(row) !== generation);
});
