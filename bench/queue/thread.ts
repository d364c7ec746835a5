// SPDX-License-Identifier: Apache-2.0
// One of the threads of bench:queue.

import { attachKernel, type SharedKernel } from "../../wasm/kernel.ts";
import { questionFields } from "../../src/tables/question.ts";
import { RequestPhase, type RequestRow, RequestTable } from "../../src/tables/request_table.ts";
import { ask } from "../../test/support/kernel.ts";

export interface ThreadTask {
  readonly shared: SharedKernel;
  /** The first word is 1 when all have filled their part. */
  readonly flags: Int32Array;
  readonly area: number;
  /** Requests of this thread that are in flight, and that wait, all the time. */
  readonly busy: number;
  readonly waiting: number;
  readonly seconds: number;
}

/** Ms are of this thread's processor time, as far as the system counts it: of the clock while it was not interrupted. */
export interface ThreadResult {
  readonly arrivals: number;
  readonly arrivalMs: number;
  readonly grants: number;
  readonly grantMs: number;
}

self.onmessage = ({ data: task }: MessageEvent<ThreadTask>) => {
  const kernel = attachKernel(task.shared, task.area, task.area);
  const k = kernel.exports;
  const fields = questionFields(kernel);
  const doubles = new Float64Array(kernel.buffer);
  const requests = new RequestTable(kernel);
  ask(kernel, {});
  const now = () => performance.timeOrigin + performance.now();
  const all: RequestRow[] = [];
  const arrive = (bytes: number): RequestRow => {
    const row = requests.tryOpen(0, 0, bytes)!;
    k.lookUpNothing();
    doubles[fields.nowMs] = now();
    k.arrive(row.row, row.generation);
    return row;
  };
  const size = (i: number) => 20_000 + (7_919 * i) % 30_000;
  for (let i = 0; i < task.busy + task.waiting; i++) all.push(arrive(size(i)));
  self.postMessage("filled");
  Atomics.wait(task.flags, 0, 0);

  let [arrivals, arrivalMs, grants, grantMs] = [0, 0, 0, 0];
  const end = performance.now() + 1_000 * task.seconds;
  for (let i = 0; performance.now() < end; i = (i + 1) % all.length) {
    const row = all[i];
    if (row.phase === RequestPhase.waiting) continue;
    // Granted by any thread: it is sent, has its first token and ends at once, and leaves its room to another one.
    if (row.phase === RequestPhase.granted) row.dispatch(now(), false);
    const { endpoint } = row;
    row.firstToken(now());
    row.release();
    let began = performance.now();
    grants += k.fill(0, endpoint, now());
    grantMs += performance.now() - began;
    began = performance.now();
    all[i] = arrive(size(i));
    arrivalMs += performance.now() - began;
    arrivals++;
  }
  self.postMessage({ arrivals, arrivalMs, grants, grantMs } satisfies ThreadResult);
};
self.postMessage("up");
