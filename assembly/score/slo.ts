// SPDX-License-Identifier: Apache-2.0
// Objectives: which of the endpoints scored by prediction keep them.

import { positionPrompt, positionQueue, positionScore, question, scratch } from "../memory/plan";
import { stepParameter } from "../predictor";

/** Share of the predicted TTFT that favours the fuller one of two endpoints that keep the objectives. */
const FULLER: f32 = 0.01;

/**
 * Of the endpoints that keep the objectives by prediction, prefers the one that leaves most room for others: the least
 * prefill of its own, then the fuller one. When none keeps them, the scores stay those of `scoreExpected`.
 */
export function scoreSlo(): void {
  const model = question().model;
  const ttftSlo = question().ttftSlo;
  const tpotSlo = question().tpotSlo;
  const step = <f32>stepParameter(model, 0);
  const perRequest = <f32>stepParameter(model, 1);
  const queues = scratch + positionQueue;
  const scores = scratch + positionScore;
  const owns = scratch + positionPrompt;
  const end = <usize>question().positions << 2;
  let met: u32 = 0;
  for (let at: usize = 0; at < end; at += 4) {
    if (keeps(scores + at, queues + at, ttftSlo, tpotSlo, step, perRequest)) met++;
  }
  question().sloMet = met;
  if (met == 0) return;
  for (let at: usize = 0; at < end; at += 4) {
    const score = load<f32>(scores + at);
    const keeps_ = keeps(scores + at, queues + at, ttftSlo, tpotSlo, step, perRequest);
    store<f32>(scores + at, keeps_ ? -load<f32>(owns + at) - FULLER * score : -Infinity);
  }
}

@inline
function keeps(score: usize, queue: usize, ttftSlo: f32, tpotSlo: f32, step: f32, perRequest: f32): bool {
  const ttft = -load<f32>(score);
  if (ttft == Infinity || (ttftSlo > 0 && ttft > ttftSlo)) return false;
  return tpotSlo <= 0 || step + perRequest * (load<f32>(queue) + 1) <= tpotSlo;
}
