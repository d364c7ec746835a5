// SPDX-License-Identifier: Apache-2.0
// Who holds the LoRA adapter of a request: in scores a bonus, in times what it takes to load it.

import { GROUP_ROWS, ENDPOINT_ADAPTERS, ENDPOINT_LISTED, MUST_LIST } from "../memory/endpoint";
import { header } from "../memory/header";
import { cell, positionGroup, positionScore, question, scratch } from "../memory/plan";

/** Adds `weight` to the scores of the endpoints that hold the question's adapter: bit `adapter` - 1 of ENDPOINT_ADAPTERS. */
export function scoreAdapter(weight: f32): void {
  const bit = (question().adapter & (MUST_LIST - 1)) - 1;
  const wanted = i32x4.splat(1 << (bit & 31));
  const bonus = f32x4.splat(weight);
  const groups = question().positions / GROUP_ROWS;
  const scores = scratch + positionScore;
  for (let ordinal: u32 = 0; ordinal < groups; ordinal++) {
    const first = load<u32>(scratch + positionGroup + (<usize>ordinal << 2)) * GROUP_ROWS;
    for (let lane: u32 = 0; lane < GROUP_ROWS; lane += 4) {
      const at = scores + (<usize>(ordinal * GROUP_ROWS + lane) << 2);
      const held = i32x4.eq(v128.and(v128.load(cell(ENDPOINT_ADAPTERS + (bit >> 5), first + lane)), wanted), wanted);
      v128.store(at, f32x4.add(v128.load(at), v128.and(bonus, held)));
    }
  }
}

/** Whether an endpoint can serve an adapter: 0 for none, else its number of 1 to 64, flagged. */
@inline
export function lists(row: u32, adapter: u32): bool {
  if ((adapter & MUST_LIST) == 0) return true;
  const bit = (adapter & (MUST_LIST - 1)) - 1;
  return (load<u32>(cell(ENDPOINT_LISTED + (bit >> 5), row)) & (1 << (bit & 31))) != 0;
}

/** Ms to load an adapter on an endpoint, 0 where it is held or none is asked for. */
@inline
export function adapterMs(row: u32, adapter: u32): f32 {
  if (adapter == 0) return 0;
  const bit = (adapter & (MUST_LIST - 1)) - 1;
  return (load<u32>(cell(ENDPOINT_ADAPTERS + (bit >> 5), row)) & (1 << (bit & 31))) != 0 ? 0 : header().adapter;
}
