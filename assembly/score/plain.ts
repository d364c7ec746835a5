// SPDX-License-Identifier: Apache-2.0
// Scores that need no more than what was gathered: the shortest queue, and none.

import { positionQueue, positionScore, question, scratch } from "../memory/plan";

/** Scores by the shortest queue: score = -queue. */
export function scoreLeastRequest(): void {
  const positions = question().positions;
  const queues = scratch + positionQueue;
  const scores = scratch + positionScore;
  const end = <usize>positions << 2;
  for (let at: usize = 0; at < end; at += 16) v128.store(scores + at, f32x4.neg(v128.load(queues + at)));
}

/** Scores every candidate alike: 0, the rest -Inf. */
export function scoreAlike(): void {
  const positions = question().positions;
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
