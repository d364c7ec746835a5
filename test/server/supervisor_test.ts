// SPDX-License-Identifier: Apache-2.0
// The supervisor with threads that do what the test says, on a manual clock.

import { assertEquals, assertRejects } from "@std/assert";
import { ManualClock } from "../../src/base/clock.ts";
import type { Snapshot } from "../../src/config/snapshot.ts";
import type { FromWorker, ToWorker } from "../../src/server/protocol.ts";
import { SPARE_AREAS, Supervisor } from "../../src/server/supervisor.ts";
import { ownCells } from "../../src/tables/metric_cells.ts";
import { KeptLog, settle } from "../support/parts.ts";
import { sharedKernel } from "../support/kernel.ts";
import { WORKER_CELLS } from "../../src/telemetry/cells.ts";

class FakeThread {
  readonly heard: ToWorker[] = [];
  terminated = false;
  onmessage: (event: { data: FromWorker }) => void = () => {};
  onerror: (event: { message: string; preventDefault(): void }) => void = () => {};
  constructor(readonly name: string) {}
  postMessage(message: ToWorker): void {
    this.heard.push(message);
  }
  terminate(): void {
    this.terminated = true;
  }
  says(data: FromWorker): void {
    this.onmessage({ data });
  }
  crashes(): void {
    this.onerror({ message: "crash", preventDefault() {} });
  }
  get area(): number {
    const [start] = this.heard;
    return start.kind === "start" ? start.worker : NaN;
  }
  get kinds(): string[] {
    return this.heard.map(({ kind }) => kind);
  }
}

function parts(workers = 2) {
  const clock = new ManualClock();
  const log = new KeptLog();
  const threads: FakeThread[] = [];
  const reaped: number[] = [];
  const { shared, kernel } = sharedKernel({ workers: 1 + workers + SPARE_AREAS });
  const setup = {
    listen: { hostname: "127.0.0.1", port: 1 },
    listeners: [],
    tls: undefined,
    extProc: undefined,
    admin: "http://127.0.0.1/",
    via: "test",
    gateway: "test",
    started: 0,
  };
  const supervisor = new Supervisor({
    kernel,
    shared,
    setup,
    log,
    workers,
    certificate: undefined,
    clock,
    reap(area) {
      reaped.push(area);
      return kernel.exports.reap(area);
    },
    thread: (name) => {
      threads.push(new FakeThread(name));
      return threads.at(-1) as unknown as Worker;
    },
  });
  supervisor.publish({ version: 1 } as Snapshot);
  let beats = 0;
  const beat = (thread: FakeThread) => ownCells({ ...kernel, worker: thread.area })[WORKER_CELLS.heartbeat] = ++beats;
  return { clock, log, threads, supervisor, kernel, beat, reaped };
}

async function started(workers = 2) {
  const all = parts(workers);
  const starting = all.supervisor.start();
  for (const thread of all.threads) thread.says({ kind: "serving" });
  await starting;
  return all;
}

const end = async ({ supervisor, threads }: { supervisor: Supervisor; threads: FakeThread[] }) => {
  const draining = supervisor.drain(1_000);
  for (const thread of threads) if (!thread.terminated) thread.says({ kind: "drained", cut: 0 });
  return await draining;
};

Deno.test("Supervisor: start waits for all, each with an area of its own, and rejects when one cannot", async () => {
  const one = await started(3);
  assertEquals(one.threads.map(({ name, area }) => [name, area]), [["worker-1", 1], ["worker-2", 2], [
    "worker-3",
    3,
  ]]);
  assertEquals(one.supervisor.serving, 3);
  await end(one);
  const other = parts(2);
  const starting = other.supervisor.start();
  other.threads[0].says({ kind: "serving" });
  other.threads[1].says({ kind: "failed", message: "no port" });
  await assertRejects(() => starting, Error, "Worker 2 cannot serve: no port");
  assertEquals(other.threads.map(({ terminated }) => terminated), [true, true]);
  other.clock.advance(60_000);
  assertEquals(other.threads.length, 2, "and none is begun again");
});

Deno.test("Supervisor: a worker that dies is replaced after a pause that grows, on an area that has rested", async () => {
  const all = await started();
  const { clock, threads, supervisor, reaped } = all;
  const areas = new Set([1, 2]);
  let pauseMs = 100;
  for (let i = 0; i < 9; i++) {
    const lost = threads.at(i === 0 ? 0 : -1)!;
    lost.crashes();
    assertEquals([lost.terminated, supervisor.serving, supervisor.restarts], [true, 1, i + 1]);
    const count = threads.length;
    clock.advance(pauseMs - 1);
    assertEquals(threads.length, count, `${pauseMs} ms`);
    const swept = reaped.length;
    clock.advance(1);
    // Its last worker may have been in the middle of something when it was swept before.
    assertEquals(reaped.slice(swept), [threads.at(-1)!.area], "an area is swept again before it is given away");
    assertEquals(threads.length, count + 1);
    const fresh = threads.at(-1)!;
    if (i < SPARE_AREAS) assertEquals(areas.has(fresh.area), false, "no area is used again while others are spare");
    areas.add(fresh.area);
    fresh.says({ kind: "serving" });
    pauseMs = Math.min(10_000, 2 * pauseMs);
    for (const thread of threads) if (!thread.terminated) all.beat(thread);
  }
  // One that has served for long begins with the first pause again.
  for (let i = 0; i < 31; i++) {
    clock.advance(1_000);
    for (const thread of threads) if (!thread.terminated) all.beat(thread);
  }
  threads.at(-1)!.crashes();
  const count = threads.length;
  clock.advance(100);
  assertEquals(threads.length, count + 1);
  threads.at(-1)!.says({ kind: "serving" });
  await end(all);
});

Deno.test("Supervisor: a worker that dies while others still start is replaced too", async () => {
  const all = parts();
  const { clock, threads, supervisor } = all;
  const starting = supervisor.start();
  threads[0].says({ kind: "serving" });
  await settle();
  threads[0].crashes();
  threads[1].says({ kind: "serving" });
  await starting;
  assertEquals(supervisor.view().map(({ state }) => state), ["restarting", "serving"]);
  clock.advance(100);
  assertEquals(threads.length, 3);
  threads[2].says({ kind: "serving" });
  assertEquals(supervisor.serving, 2);
  await end(all);
});

Deno.test("Supervisor: nobody is restarted on request before all have served", async () => {
  const all = parts();
  const starting = all.supervisor.start();
  all.threads[0].says({ kind: "serving" });
  assertEquals([all.supervisor.kill(1), all.supervisor.kill(2)], [false, false]);
  all.threads[1].says({ kind: "serving" });
  await starting;
  assertEquals([all.supervisor.kill(2), all.supervisor.kill(2), all.supervisor.kill(9)], [true, false, false]);
  await end(all);
});

Deno.test("Supervisor: a worker whose heart stands still for 10 s is replaced, one that beats is not", async () => {
  const all = await started();
  const { clock, threads, log } = all;
  for (let i = 0; i < 13; i++) {
    clock.advance(1_000);
    all.beat(threads[1]);
  }
  assertEquals([threads[0].terminated, threads[1].terminated, threads.length], [true, false, 3]);
  assertEquals(log.lines, ["error worker lost"]);
  await end(all);
});

Deno.test("Supervisor: what a thread says after it was lost is not heard", async () => {
  const all = await started();
  const [first] = all.threads;
  first.crashes();
  first.crashes();
  first.says({ kind: "serving" });
  assertEquals([all.supervisor.restarts, all.supervisor.serving], [1, 1]);
  await end(all);
});

Deno.test("Supervisor: snapshots and certificates go to all there are, and to those that come later", async () => {
  const all = await started();
  const { clock, threads, supervisor } = all;
  threads[0].crashes();
  const certificate = { cert: "c", key: "k" };
  supervisor.publish({ version: 2 } as Snapshot);
  supervisor.renew(certificate);
  assertEquals(threads[1].kinds, ["start", "snapshot", "certificate"]);
  clock.advance(100);
  const [start] = threads[2].heard;
  assertEquals(start.kind === "start" && [start.snapshot.version, start.certificate], [2, certificate]);
  await end(all);
});

Deno.test("Supervisor: drain waits for those that serve, ends those that begin, and leaves no timer", async () => {
  const all = await started(3);
  const { clock, threads, supervisor } = all;
  threads[0].crashes();
  clock.advance(100); // its replacement begins
  threads[1].crashes(); // and this one waits to be replaced
  let cut: number | undefined;
  const draining = supervisor.drain(5_000).then((count) => cut = count);
  assertEquals([threads[3].terminated, threads[2].kinds.at(-1)], [true, "drain"]);
  await settle();
  assertEquals(cut, undefined);
  threads[2].says({ kind: "drained", cut: 4 });
  await draining;
  assertEquals([cut, threads.length, threads.every(({ terminated }) => terminated)], [4, 4, true]);
  clock.advance(60_000);
  assertEquals(threads.length, 4);
});

Deno.test("Supervisor: drain ends when a worker dies in it, and at the latest 2 s after its deadline", async () => {
  const dying = await started();
  const draining = dying.supervisor.drain(5_000);
  dying.threads[0].crashes();
  dying.threads[1].says({ kind: "drained", cut: 1 });
  assertEquals(await draining, 1);
  const silent = await started();
  let over = false;
  const late = silent.supervisor.drain(5_000).then(() => over = true);
  silent.clock.advance(6_990);
  await settle();
  assertEquals(over, false);
  silent.clock.advance(10);
  await late;
});

Deno.test("Supervisor: one that is replaced serves until another does, then finishes what it has", async () => {
  const all = await started();
  const { supervisor, threads, clock } = all;
  const [first] = threads;
  const replaced = supervisor.replace(1, 5_000);
  await settle();
  const fresh = threads[2];
  assertEquals([first.kinds, fresh.kinds, supervisor.serving], [["start"], ["start"], 2]);
  fresh.says({ kind: "serving" });
  assertEquals(await replaced, true);
  assertEquals([first.kinds, first.terminated], [["start", "drain"], false]);
  assertEquals(supervisor.view()[0], { worker: 1, state: "serving", restarts: 1 });
  assertEquals(new Set([first.area, fresh.area, threads[1].area]).size, 3);
  // What it still serves holds rows back, and it hears of changes.
  const uses = (thread: FakeThread, snapshot: number) =>
    ownCells({ ...all.kernel, worker: thread.area })[WORKER_CELLS.snapshot] = snapshot;
  uses(first, 7);
  uses(fresh, 9);
  uses(threads[1], 9);
  assertEquals(supervisor.oldestSnapshot, 7);
  first.says({ kind: "drained", cut: 0 });
  assertEquals([first.terminated, supervisor.oldestSnapshot], [true, 9]);
  // One that never finishes is ended after its deadline.
  const again = supervisor.replace(1, 5_000);
  await settle();
  threads[3].says({ kind: "serving" });
  await again;
  clock.advance(6_999);
  assertEquals(fresh.terminated, false);
  clock.advance(1);
  assertEquals(fresh.terminated, true);
});

Deno.test("Supervisor: one that cannot be replaced goes on, and spare areas are kept for those that die", async () => {
  const { supervisor, threads } = await started();
  const failed = supervisor.replace(1, 5_000);
  await settle();
  threads[2].says({ kind: "failed", message: "the address is in use" });
  await assertRejects(() => failed, Error, "the address is in use");
  assertEquals([supervisor.view()[0], threads[0].kinds], [{ worker: 1, state: "serving", restarts: 0 }, ["start"]]);
  for (let i = 0; i < SPARE_AREAS - 2; i++) {
    const replaced = supervisor.replace(2, 5_000);
    await settle();
    threads.at(-1)!.says({ kind: "serving" });
    assertEquals(await replaced, true);
  }
  assertEquals(await supervisor.replace(1, 5_000), false, "the others are still at it");
  assertEquals(await supervisor.replace(9, 5_000), false);
  const drained = supervisor.drain(1_000);
  for (const thread of threads) thread.says({ kind: "drained", cut: 1 });
  assertEquals(await drained, 2 + SPARE_AREAS - 2, "those that were leaving are waited for too");
});

Deno.test("Supervisor: one whose replacement does not begin to serve in time goes on, and the area comes back", async () => {
  const all = await started();
  const { supervisor, threads, clock } = all;
  for (let i = 0; i < 3; i++) {
    const late = supervisor.replace(1, 5_000);
    await settle();
    assertEquals(await supervisor.replace(1, 5_000), false, "it is being replaced");
    for (let s = 0; s < 30; s++) {
      assertEquals(threads.at(-1)!.terminated, false);
      clock.advance(1_000);
      for (const thread of threads.slice(0, 2)) all.beat(thread);
    }
    await assertRejects(() => late, Error, "did not serve within 30000 ms");
    assertEquals([threads.at(-1)!.terminated, threads.length], [true, 3 + i]);
  }
  assertEquals([supervisor.serving, threads[0].terminated], [2, false]);
});

Deno.test("Supervisor: one that comes as others are asked to leave is asked too; who leaves gets no certificate", async () => {
  const { supervisor, threads } = await started();
  const replaced = supervisor.replace(2, 5_000);
  await settle();
  supervisor.leave();
  const certificate = { cert: "c", key: "k" };
  supervisor.renew(certificate);
  threads[2].says({ kind: "serving" });
  assertEquals(await replaced, true);
  assertEquals([threads[2].kinds.includes("leave"), threads[2].kinds.includes("certificate")], [true, true]);
  supervisor.renew(certificate);
  assertEquals(threads[1].kinds.filter((kind) => kind === "certificate").length, 1, "before it was to leave");
});
