// SPDX-License-Identifier: Apache-2.0
// Filter: one pass gathers the loads of the candidates of a cluster and their extremes, four rows at a time. Positions run
// over the cluster's groups in list order; position p is row 16·group[p / 16] + p % 16. A position that is no candidate has
// the queue +Inf and the score -Inf.

import {
  GROUP_ROWS,
  ENDPOINT_ELIGIBILITY,
  ENDPOINT_LISTED,
  ENDPOINT_PENALTY,
  ENDPOINT_REMOTE_PROMPT,
  ENDPOINT_REMOTE_REQUESTS,
  ENDPOINT_REQUESTS,
  MUST_LIST,
} from "../memory/endpoint";
import {
  allowedRows,
  groupAfter,
  cell,
  firstGroupOf,
  ordinalBase,
  positionGroup,
  positionPrompt,
  positionQueue,
  question,
  scratch,
} from "../memory/plan";
import { QUESTION_EXCLUDE } from "../memory/question";

@inline
export function horizontalMin(v: v128): f32 {
  return min(
    min(f32x4.extract_lane(v, 0), f32x4.extract_lane(v, 1)),
    min(f32x4.extract_lane(v, 2), f32x4.extract_lane(v, 3)),
  );
}

@inline
export function horizontalSum(v: v128): f32 {
  return f32x4.extract_lane(v, 0) + f32x4.extract_lane(v, 1) + f32x4.extract_lane(v, 2) + f32x4.extract_lane(v, 3);
}

@inline
export function horizontalMax(v: v128): f32 {
  return max(
    max(f32x4.extract_lane(v, 0), f32x4.extract_lane(v, 1)),
    max(f32x4.extract_lane(v, 2), f32x4.extract_lane(v, 3)),
  );
}

/**
 * Gathers the loads of the question's cluster's rows whose eligibility has all bits of `mask` and that are not excluded.
 * The prompt load is that of `promptColumn`: ENDPOINT_PROMPT or ENDPOINT_UNCACHED. Returns the number of candidates; their
 * extremes go to the question.
 */
export function gather(mask: u32, promptColumn: u32): u32 {
  const queues = scratch + positionQueue;
  const prompts = scratch + positionPrompt;
  const groupList = scratch + positionGroup;
  const excluded = question().excluded;
  const restricted = question().restricted != 0;
  const adapter = question().adapter;
  const wanted = i32x4.splat(mask);
  const zero = i32x4.splat(0);
  const infinity = f32x4.splat(f32.MAX_VALUE * 2);
  let minQueue = infinity;
  let maxQueue = f32x4.splat(0);
  let maxPrompt = f32x4.splat(0);
  let candidates: u32 = 0;
  let ordinal: u32 = 0;
  let group = firstGroupOf(question().cluster);
  while (group != 0) {
    group--;
    store<u32>(groupList + (<usize>ordinal << 2), group);
    const first = group * GROUP_ROWS;
    const out = <usize>ordinal << 6; // 16 positions of 4 bytes
    for (let lane: u32 = 0; lane < GROUP_ROWS; lane += 4) {
      const row = first + lane;
      let fits = i32x4.eq(v128.and(v128.load(cell(ENDPOINT_ELIGIBILITY, row)), wanted), wanted);
      if (excluded != 0) fits = exclude(fits, row, excluded);
      if (restricted) fits = v128.and(fits, allowed(row));
      if ((adapter & MUST_LIST) != 0) fits = v128.and(fits, listed(row, adapter));
      const q = f32x4.convert_i32x4_s(
        i32x4.max_s(
          i32x4.add(
            i32x4.add(v128.load(cell(ENDPOINT_REQUESTS, row)), v128.load(cell(ENDPOINT_REMOTE_REQUESTS, row))),
            v128.load(cell(ENDPOINT_PENALTY, row)),
          ),
          zero,
        ),
      );
      const p = f32x4.convert_i32x4_u(
        i32x4.add(v128.load(cell(promptColumn, row)), v128.load(cell(ENDPOINT_REMOTE_PROMPT, row))),
      );
      const at = out + (<usize>lane << 2);
      const masked = v128.bitselect(q, infinity, fits);
      v128.store(queues + at, masked);
      v128.store(prompts + at, p);
      minQueue = f32x4.pmin(minQueue, masked);
      maxQueue = f32x4.pmax(maxQueue, v128.and(q, fits));
      maxPrompt = f32x4.pmax(maxPrompt, v128.and(p, fits));
      candidates += popcnt<u32>(i32x4.bitmask(fits));
    }
    ordinal++;
    group = groupAfter(group);
  }
  question().candidates = candidates;
  question().positions = ordinal * GROUP_ROWS;
  question().minRequests = candidates == 0 ? 0 : horizontalMin(minQueue);
  question().maxRequests = horizontalMax(maxQueue);
  question().maxPrompt = horizontalMax(maxPrompt);
  return candidates;
}

// The lanes of rows that list an adapter.
@inline
function listed(row: u32, adapter: u32): v128 {
  const bit = (adapter & (MUST_LIST - 1)) - 1;
  const wanted = i32x4.splat(1 << (bit & 31));
  return i32x4.eq(v128.and(v128.load(cell(ENDPOINT_LISTED + (bit >> 5), row)), wanted), wanted);
}

// The lanes of rows that a restricted choice may take.
@inline
function allowed(row: u32): v128 {
  const bits = <u32>load<u8>(scratch + allowedRows + (row >> 3)) >> (row & 4);
  const lanes = i32x4(1, 2, 4, 8);
  return i32x4.eq(v128.and(i32x4.splat(bits), lanes), lanes);
}

// Clears the lanes of rows that were tried already. Rare: retries only.
function exclude(fits: v128, row: u32, count: u32): v128 {
  for (let i: u32 = 0; i < count; i++) {
    const lane = load<u32>(scratch + (<usize>i << 2), QUESTION_EXCLUDE) - row;
    if (lane == 0) fits = i32x4.replace_lane(fits, 0, 0);
    else if (lane == 1) fits = i32x4.replace_lane(fits, 1, 0);
    else if (lane == 2) fits = i32x4.replace_lane(fits, 2, 0);
    else if (lane == 3) fits = i32x4.replace_lane(fits, 3, 0);
  }
  return fits;
}

/** Position of a row of the gathered cluster. */
@inline
export function positionOf(row: u32): u32 {
  return load<u32>(ordinalBase + (<usize>(row / GROUP_ROWS) << 2)) * GROUP_ROWS + row % GROUP_ROWS;
}

/** Whether a row is the gathered cluster's: one that the prefix index names may have changed hands. */
@inline
export function isGathered(row: u32): bool {
  const position = positionOf(row);
  return position < question().positions && rowOf(position) == row;
}

/** Row at a position. */
@inline
export function rowOf(position: u32): u32 {
  return load<u32>(scratch + positionGroup + (<usize>(position / GROUP_ROWS) << 2)) * GROUP_ROWS + position % GROUP_ROWS;
}
