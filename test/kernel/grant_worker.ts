// SPDX-License-Identifier: Apache-2.0
// One of several threads that let requests arrive, be granted and end in one queue, all at once.

import { attachKernel, type SharedKernel } from "../../wasm/kernel.ts";
import { questionFields } from "../../src/tables/question.ts";
import { RequestPhase, type RequestRow, RequestTable } from "../../src/tables/request_table.ts";
import { ask } from "../support/kernel.ts";
import { Random } from "../support/seed.ts";

export interface GrantTask {
  readonly shared: SharedKernel;
  readonly area: number;
  readonly seed: number;
  readonly rounds: number;
}

const AT_ONCE = 24;

self.onmessage = ({ data: { shared, area, seed, rounds } }: MessageEvent<GrantTask>) => {
  const kernel = attachKernel(shared, area, seed);
  const k = kernel.exports;
  const random = new Random(seed);
  const fields = questionFields(kernel);
  const doubles = new Float64Array(kernel.buffer);
  const requests = new RequestTable(kernel);
  const now = () => performance.timeOrigin + performance.now();
  ask(kernel, {});
  const open = new Set<RequestRow>();
  let granted = 0;
  const end = (row: RequestRow): void => {
    const { endpoint } = row;
    const carried = row.phase >= RequestPhase.granted;
    if (carried) granted++;
    if (row.phase === RequestPhase.granted) row.dispatch(now(), false);
    if (carried) row.firstToken(now());
    row.release();
    open.delete(row);
    if (carried) k.fill(0, endpoint, now());
  };
  for (let round = 0; round < rounds; round++) {
    const row = requests.tryOpen(0, 0, 1_000 + random.below(60_000));
    if (row !== undefined) {
      k.lookUpNothing();
      doubles[fields.nowMs] = now();
      k.arrive(row.row, row.generation);
      open.add(row);
    }
    // Some that wait leave, others end when they are granted.
    for (const other of open) {
      if (open.size < AT_ONCE && (other.phase === RequestPhase.waiting || !random.chance(0.3))) continue;
      if (other.phase === RequestPhase.waiting && !random.chance(0.02)) continue;
      end(other);
    }
    if (random.chance(0.01)) k.fillAll(0, now());
  }
  for (const row of open) end(row);
  self.postMessage(granted);
};
self.postMessage("up");
