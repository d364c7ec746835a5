// SPDX-License-Identifier: Apache-2.0
// Filter and score: one pass gathers the loads of the candidates of a cluster and their extremes, a second computes
//
//   delta     = max(2, max(queue) - min(queue))
//   request_i = (queue_i - min(queue)) / delta
//   prefill_i = prompt_i / max(floor, max(prompt))
//   score_i   = W_cache · cache_i - W_request · ceil(delta / 5) · request_i - W_prefill · prefill_i
//
// four rows at a time. Positions run over the cluster's blocks in list order; position p is row 16·block[p / 16] + p % 16.
// A position that is no candidate has the queue +Inf and the score -Inf.

import {
  BLOCK_ROWS,
  C_FIRST_BLOCK,
  cell,
  clusterAt,
  D_CANDIDATES,
  D_CHUNKS,
  D_EVERYWHERE,
  D_EXCLUDE,
  D_EXCLUDED,
  D_MATCH,
  D_MATCHES,
  D_MAX_PROMPT,
  D_MAX_REQUESTS,
  D_MIN_REQUESTS,
  D_POSITIONS,
  E_ADAPTERS,
  E_ELIGIBILITY,
  E_PENALTY,
  E_REMOTE_PROMPT,
  E_REMOTE_REQUESTS,
  E_REQUESTS,
  nextBlockBase,
  ordinalBase,
  positionBlock,
  positionPrompt,
  positionQueue,
  positionScore,
  scratch,
} from "./layout";

@inline
export function horizontalMin(v: v128): f32 {
  return min(
    min(f32x4.extract_lane(v, 0), f32x4.extract_lane(v, 1)),
    min(f32x4.extract_lane(v, 2), f32x4.extract_lane(v, 3)),
  );
}

@inline
export function horizontalMax(v: v128): f32 {
  return max(
    max(f32x4.extract_lane(v, 0), f32x4.extract_lane(v, 1)),
    max(f32x4.extract_lane(v, 2), f32x4.extract_lane(v, 3)),
  );
}

/**
 * Gathers the loads of the cluster's rows whose eligibility has all bits of `mask` and that are not excluded.
 * The prompt load is that of `promptColumn`: E_PROMPT or E_UNCACHED. Returns the number of candidates; their extremes go to the decision.
 */
export function gather(cluster: u32, mask: u32, promptColumn: u32): u32 {
  const queues = scratch + positionQueue;
  const prompts = scratch + positionPrompt;
  const blockList = scratch + positionBlock;
  const excluded = load<u32>(scratch, D_EXCLUDED);
  const wanted = i32x4.splat(mask);
  const zero = i32x4.splat(0);
  const infinity = f32x4.splat(f32.MAX_VALUE * 2);
  let least = infinity;
  let most = f32x4.splat(0);
  let mostPrompt = f32x4.splat(0);
  let candidates: u32 = 0;
  let ordinal: u32 = 0;
  let block = load<u32>(clusterAt(cluster), C_FIRST_BLOCK);
  while (block != 0) {
    block--;
    store<u32>(blockList + (<usize>ordinal << 2), block);
    const first = block * BLOCK_ROWS;
    const out = <usize>ordinal << 6; // 16 positions of 4 bytes
    for (let lane: u32 = 0; lane < BLOCK_ROWS; lane += 4) {
      const row = first + lane;
      let fits = i32x4.eq(v128.and(v128.load(cell(E_ELIGIBILITY, row)), wanted), wanted);
      if (excluded != 0) fits = exclude(fits, row, excluded);
      const q = f32x4.convert_i32x4_s(
        i32x4.max_s(
          i32x4.add(
            i32x4.add(v128.load(cell(E_REQUESTS, row)), v128.load(cell(E_REMOTE_REQUESTS, row))),
            v128.load(cell(E_PENALTY, row)),
          ),
          zero,
        ),
      );
      const p = f32x4.convert_i32x4_u(
        i32x4.add(v128.load(cell(promptColumn, row)), v128.load(cell(E_REMOTE_PROMPT, row))),
      );
      const at = out + (<usize>lane << 2);
      const masked = v128.bitselect(q, infinity, fits);
      v128.store(queues + at, masked);
      v128.store(prompts + at, p);
      least = f32x4.pmin(least, masked);
      most = f32x4.pmax(most, v128.and(q, fits));
      mostPrompt = f32x4.pmax(mostPrompt, v128.and(p, fits));
      candidates += popcnt<u32>(i32x4.bitmask(fits));
    }
    ordinal++;
    block = load<u32>(nextBlockBase + (<usize>block << 2));
  }
  store<u32>(scratch, candidates, D_CANDIDATES);
  store<u32>(scratch, ordinal * BLOCK_ROWS, D_POSITIONS);
  store<f32>(scratch, candidates == 0 ? 0 : horizontalMin(least), D_MIN_REQUESTS);
  store<f32>(scratch, horizontalMax(most), D_MAX_REQUESTS);
  store<f32>(scratch, horizontalMax(mostPrompt), D_MAX_PROMPT);
  return candidates;
}

// Clears the lanes of rows that were tried already. Rare: retries only.
function exclude(fits: v128, row: u32, count: u32): v128 {
  for (let i: u32 = 0; i < count; i++) {
    const lane = load<u32>(scratch + (<usize>i << 2), D_EXCLUDE) - row;
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
  return load<u32>(ordinalBase + (<usize>(row / BLOCK_ROWS) << 2)) * BLOCK_ROWS + row % BLOCK_ROWS;
}

/** Row at a position. */
@inline
export function rowOf(position: u32): u32 {
  return load<u32>(scratch + positionBlock + (<usize>(position / BLOCK_ROWS) << 2)) * BLOCK_ROWS + position % BLOCK_ROWS;
}

/** Scores what `gather` gathered by the inference_lb formula. A weight of 0 leaves its term out. */
export function scoreInferenceLb(cacheWeight: f32, requestWeight: f32, prefillWeight: f32, promptFloor: f32): void {
  const positions = load<u32>(scratch, D_POSITIONS);
  const queues = scratch + positionQueue;
  const prompts = scratch + positionPrompt;
  const scores = scratch + positionScore;
  const chunks = load<u32>(scratch, D_CHUNKS);
  const leastQueue = load<f32>(scratch, D_MIN_REQUESTS);
  const delta = max<f32>(2, load<f32>(scratch, D_MAX_REQUESTS) - leastQueue);
  const promptScale = max<f32>(promptFloor, load<f32>(scratch, D_MAX_PROMPT));
  const requestFactor = requestWeight * ceil<f32>(delta / 5);
  const shared: f32 = chunks == 0 ? 0 : cacheWeight * (<f32>load<u32>(scratch, D_EVERYWHERE) / <f32>chunks);

  const infinity = f32x4.splat(f32.MAX_VALUE * 2);
  const nothing = f32x4.splat(-f32.MAX_VALUE * 2);
  const least = f32x4.splat(leastQueue);
  const range = f32x4.splat(delta);
  const scale = f32x4.splat(promptScale);
  const wRequest = f32x4.splat(requestFactor);
  const wPrefill = f32x4.splat(prefillWeight);
  const base = f32x4.splat(shared);
  const end = <usize>positions << 2;
  for (let at: usize = 0; at < end; at += 16) {
    const q = v128.load(queues + at);
    const request = f32x4.mul(wRequest, f32x4.div(f32x4.sub(q, least), range));
    const prefill = f32x4.mul(wPrefill, f32x4.div(v128.load(prompts + at), scale));
    const score = f32x4.sub(f32x4.sub(base, request), prefill);
    v128.store(scores + at, v128.bitselect(nothing, score, f32x4.eq(q, infinity)));
  }
  if (chunks == 0) return;

  const matches = load<u32>(scratch, D_MATCHES);
  for (let m: u32 = 0; m < matches; m++) {
    const pair = scratch + D_MATCH + (<usize>m << 3);
    const at = <usize>positionOf(load<u32>(pair)) << 2;
    const q = load<f32>(queues + at);
    if (q == Infinity) continue;
    const cache = cacheWeight * (<f32>load<u32>(pair, 4) / <f32>chunks);
    const request = requestFactor * ((q - leastQueue) / delta);
    const prefill = prefillWeight * (load<f32>(prompts + at) / promptScale);
    store<f32>(scores + at, cache - request - prefill);
  }
}

/** Adds `weight` to the scores of the endpoints that hold an adapter: bit `adapter` - 1 of E_ADAPTERS. */
export function scoreAdapter(adapter: u32, weight: f32): void {
  const bit = adapter - 1;
  const wanted = i32x4.splat(1 << (bit & 31));
  const bonus = f32x4.splat(weight);
  const blocks = load<u32>(scratch, D_POSITIONS) / BLOCK_ROWS;
  const scores = scratch + positionScore;
  for (let ordinal: u32 = 0; ordinal < blocks; ordinal++) {
    const first = load<u32>(scratch + positionBlock + (<usize>ordinal << 2)) * BLOCK_ROWS;
    for (let lane: u32 = 0; lane < BLOCK_ROWS; lane += 4) {
      const at = scores + (<usize>(ordinal * BLOCK_ROWS + lane) << 2);
      const held = i32x4.eq(v128.and(v128.load(cell(E_ADAPTERS + (bit >> 5), first + lane)), wanted), wanted);
      v128.store(at, f32x4.add(v128.load(at), v128.and(bonus, held)));
    }
  }
}

/** Scores by the shortest queue: score = -queue. */
export function scoreLeastRequest(): void {
  const positions = load<u32>(scratch, D_POSITIONS);
  const queues = scratch + positionQueue;
  const scores = scratch + positionScore;
  const end = <usize>positions << 2;
  for (let at: usize = 0; at < end; at += 16) v128.store(scores + at, f32x4.neg(v128.load(queues + at)));
}

/** Scores every candidate alike: 0, the rest -Inf. */
export function scoreAlike(): void {
  const positions = load<u32>(scratch, D_POSITIONS);
  const queues = scratch + positionQueue;
  const scores = scratch + positionScore;
  const infinity = f32x4.splat(f32.MAX_VALUE * 2);
  const nothing = f32x4.splat(-f32.MAX_VALUE * 2);
  const zero = f32x4.splat(0);
  const end = <usize>positions << 2;
  for (let at: usize = 0; at < end; at += 16) {
    v128.store(scores + at, v128.bitselect(nothing, zero, f32x4.eq(v128.load(queues + at), infinity)));
  }
}
