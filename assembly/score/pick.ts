// SPDX-License-Identifier: Apache-2.0
// Pick: one of the `k` best at random, ties at the border of the k drawn by lot. Instead of sorting, draw a rank in
// [0, k) and find the score at that rank: a histogram over the upper 11 bits of the order-preserving integer form of the
// float narrows it to one bin, two more passes to one value; among equals each is as likely. O(positions).

import { histogram, positionQueue, positionScore, question, scratch } from "../memory/plan";
import { HISTOGRAM_BYTES } from "../memory/question";
import { below } from "../random";
import { horizontalMax } from "./gather";

@inline
function ordered(bits: i32): u32 {
  return <u32>(bits ^ ((bits >> 31) | <i32>0x80000000));
}

/** Position of one of the `k` best scores, drawn at random. `k` is at least 1 and at most the number of candidates. */
export function pickBest(k: u32): u32 {
  return k == 1 ? pickMaximum() : pickRank(below(k));
}

function pickMaximum(): u32 {
  const scores = scratch + positionScore;
  return drawAbove(scores, greatest(scores));
}

/** The greatest of the scores at `scores`, -Inf when there is none. */
export function greatest(scores: usize): f32 {
  const end = <usize>question().positions << 2;
  let best = f32x4.splat(-f32.MAX_VALUE * 2);
  for (let at: usize = 0; at < end; at += 16) best = f32x4.pmax(best, v128.load(scores + at));
  return horizontalMax(best);
}

/** One of the positions whose score is at least `least`, drawn at random. */
export function drawAbove(scores: usize, minimum: f32): u32 {
  const end = <usize>question().positions << 2;
  const wanted = f32x4.splat(minimum);
  let fits: u32 = 0;
  for (let at: usize = 0; at < end; at += 16) {
    fits += popcnt<u32>(i32x4.bitmask(f32x4.ge(v128.load(scores + at), wanted)));
  }
  let n = fits > 1 ? below(fits) : 0;
  for (let at: usize = 0; at < end; at += 16) {
    let bits = i32x4.bitmask(f32x4.ge(v128.load(scores + at), wanted));
    const here = popcnt<u32>(bits);
    if (n >= here) {
      n -= here;
      continue;
    }
    for (; n > 0; n--) bits &= bits - 1;
    return <u32>(at >> 2) + ctz<u32>(bits);
  }
  return 0;
}

// Position of the n-th score that equals `wanted`.
function nthEqual(wanted: v128, n: u32): u32 {
  const scores = scratch + positionScore;
  const positions = question().positions;
  for (let position: u32 = 0; position < positions; position += 4) {
    let bits = i32x4.bitmask(f32x4.eq(v128.load(scores + (<usize>position << 2)), wanted));
    const here = popcnt<u32>(bits);
    if (n >= here) {
      n -= here;
      continue;
    }
    for (; n > 0; n--) bits &= bits - 1;
    return position + ctz<u32>(bits);
  }
  return 0;
}

function pickRank(rank: u32): u32 {
  const scores = scratch + positionScore;
  const bins = scratch + histogram;
  const end = scores + (<usize>question().positions << 2);

  memory.fill(bins, 0, HISTOGRAM_BYTES);
  for (let at = scores; at < end; at += 4) {
    const bin = bins + (<usize>(ordered(load<i32>(at)) >> 21) << 2);
    store<u32>(bin, load<u32>(bin) + 1);
  }
  let bin: u32 = 2047;
  let count = load<u32>(bins + (<usize>bin << 2));
  while (rank >= count) {
    rank -= count;
    bin--;
    count = load<u32>(bins + (<usize>bin << 2));
  }
  let prefix = bin;

  memory.fill(bins, 0, HISTOGRAM_BYTES);
  for (let at = scores; at < end; at += 4) {
    const value = ordered(load<i32>(at));
    if (value >> 21 != prefix) continue;
    const bin = bins + (<usize>((value >> 10) & 2047) << 2);
    store<u32>(bin, load<u32>(bin) + 1);
  }
  bin = 2047;
  count = load<u32>(bins + (<usize>bin << 2));
  while (rank >= count) {
    rank -= count;
    bin--;
    count = load<u32>(bins + (<usize>bin << 2));
  }
  prefix = (prefix << 11) | bin;

  memory.fill(bins, 0, 4096);
  for (let at = scores; at < end; at += 4) {
    const value = ordered(load<i32>(at));
    if (value >> 10 != prefix) continue;
    const bin = bins + (<usize>(value & 1023) << 2);
    store<u32>(bin, load<u32>(bin) + 1);
  }
  bin = 1023;
  count = load<u32>(bins + (<usize>bin << 2));
  while (rank >= count) {
    rank -= count;
    bin--;
    count = load<u32>(bins + (<usize>bin << 2));
  }
  const value = (prefix << 10) | bin;
  const bits: u32 = (value & 0x80000000) != 0 ? value ^ 0x80000000 : ~value;
  return nthEqual(f32x4.splat(reinterpret<f32>(bits)), count == 1 ? 0 : below(count));
}

/** Position of the n-th candidate, n below their number. */
export function nthCandidate(n: u32): u32 {
  const queues = scratch + positionQueue;
  const positions = question().positions;
  const infinity = f32x4.splat(f32.MAX_VALUE * 2);
  for (let position: u32 = 0; position < positions; position += 4) {
    let bits = i32x4.bitmask(f32x4.ne(v128.load(queues + (<usize>position << 2)), infinity));
    const here = popcnt<u32>(bits);
    if (n >= here) {
      n -= here;
      continue;
    }
    for (; n > 0; n--) bits &= bits - 1;
    return position + ctz<u32>(bits);
  }
  return 0;
}
