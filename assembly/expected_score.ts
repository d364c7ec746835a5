// SPDX-License-Identifier: Apache-2.0
// Scores by prediction, in milliseconds:
//
//   ttft_i = ahead_ms_i + run · queue_i + speed_i · predicted(prompt, cached_i)
//
// ahead_ms_i is the prefill work ahead as in late_score.ts, predicted() is the model's learned prefill time, speed_i
// how the endpoint's learned rate compares with the model's: it stands for the class of its hardware.

import {
  BLOCK_ROWS,
  CHUNK_BYTES,
  D_EVERYWHERE,
  D_MATCH,
  D_MATCHES,
  D_POSITIONS,
  D_SLO_MET,
  D_TPOT_SLO,
  D_TTFT_SLO,
  E_RATE,
  E_REMOTE_PROMPT,
  H_ROOM,
  H_RUN,
  R_AHEAD,
  R_CACHED,
  R_CLUSTER,
  R_ENDPOINT,
  R_MODEL,
  R_PROMPT,
  cell,
  positionBlock,
  positionPrompt,
  positionQueue,
  positionScore,
  requestAt,
  scratch,
  parameter,
} from "./layout";
import { aheadMsOfFour, aheadOfFour, remoteShare, sinceOf, sinceOfFour } from "./late_score";
import { predictTtft, rateOf, stepParameter } from "./predictor";
import { stampOf } from "./request";
import { positionOf } from "./score";

/** Share of the predicted TTFT that favours the fuller one of two endpoints that keep the objectives. */
const FULLER: f32 = 0.01;

@inline
function blockRow(ordinal: u32): u32 {
  return load<u32>(scratch + positionBlock + (<usize>ordinal << 2)) * BLOCK_ROWS;
}

/** Scores the gathered candidates by -ttft_i, and leaves speed_i · predicted() where the prompt loads were. */
export function scoreExpected(cluster: u32, model: u32, promptBytes: u32, stamp: u32): void {
  const queues = scratch + positionQueue;
  const scores = scratch + positionScore;
  const owns = scratch + positionPrompt;
  const blocks = load<u32>(scratch, D_POSITIONS) / BLOCK_ROWS;
  const infinity = f32x4.splat(f32.MAX_VALUE * 2);
  const nothing = f32x4.splat(-f32.MAX_VALUE * 2);
  const share = f32x4.splat(remoteShare(cluster));
  const run = f32x4.splat(parameter(H_RUN));
  const room = f32x4.splat(parameter(H_ROOM));
  const mean = max<f32>(1e-9, <f32>rateOf(model));
  const everywhere = predictTtft(model, promptBytes, load<u32>(scratch, D_EVERYWHERE) * CHUNK_BYTES);
  const own = f32x4.splat(<f32>everywhere / mean);
  for (let ordinal: u32 = 0; ordinal < blocks; ordinal++) {
    for (let lane: u32 = 0; lane < BLOCK_ROWS; lane += 4) {
      const at = <usize>(ordinal * BLOCK_ROWS + lane) << 2;
      const row = blockRow(ordinal) + lane;
      const q = v128.load(queues + at);
      const rate = v128.load(cell(E_RATE, row));
      const prefill = f32x4.mul(rate, own);
      const ahead = aheadMsOfFour(aheadOfFour(row, share), rate, sinceOfFour(row, stamp), room);
      const ttft = f32x4.add(f32x4.add(ahead, prefill), f32x4.mul(run, q));
      v128.store(scores + at, v128.bitselect(nothing, f32x4.neg(ttft), f32x4.eq(q, infinity)));
      v128.store(owns + at, prefill);
    }
  }
  const matches = load<u32>(scratch, D_MATCHES);
  for (let m: u32 = 0; m < matches; m++) {
    const pair = scratch + D_MATCH + (<usize>m << 3);
    const row = load<u32>(pair);
    const at = <usize>positionOf(row) << 2;
    const speed = load<f32>(cell(E_RATE, row)) / mean;
    const prefill = speed * <f32>predictTtft(model, promptBytes, load<u32>(pair, 4) * CHUNK_BYTES);
    store<f32>(scores + at, load<f32>(scores + at) + load<f32>(owns + at) - prefill);
    store<f32>(owns + at, prefill);
  }
}

/**
 * Of the endpoints that keep the objectives by prediction, prefers the one that leaves most room for others: the least
 * prefill of its own, then the fuller one. When none keeps them, the scores stay those of `scoreExpected`.
 */
export function scoreSlo(model: u32): void {
  const ttftSlo = load<f32>(scratch, D_TTFT_SLO);
  const tpotSlo = load<f32>(scratch, D_TPOT_SLO);
  const step = <f32>stepParameter(model, 0);
  const perRequest = <f32>stepParameter(model, 1);
  const queues = scratch + positionQueue;
  const scores = scratch + positionScore;
  const owns = scratch + positionPrompt;
  const end = <usize>load<u32>(scratch, D_POSITIONS) << 2;
  let met: u32 = 0;
  for (let at: usize = 0; at < end; at += 4) {
    if (keeps(scores + at, queues + at, ttftSlo, tpotSlo, step, perRequest)) met++;
  }
  store<u32>(scratch, met, D_SLO_MET);
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

/** Predicted ms from now to the first token of a granted request, with what is ahead of it on its endpoint. */
export function predictRequest(row: u32, now: f64): f64 {
  const at = requestAt(row);
  const endpoint = load<u32>(at, R_ENDPOINT);
  const model = load<u32>(at, R_MODEL);
  const rate = <f64>load<f32>(cell(E_RATE, endpoint));
  const remote = remoteShare(load<u32>(at, R_CLUSTER)) * <f32>load<u32>(cell(E_REMOTE_PROMPT, endpoint));
  const ahead = <f64>load<u32>(at, R_AHEAD) + <f64>remote;
  const since = <f64>sinceOf(endpoint, stampOf(now));
  const speed = rate / max<f64>(1e-9, rateOf(model));
  const own = speed * predictTtft(model, load<u32>(at, R_PROMPT), load<u32>(at, R_CACHED) * CHUNK_BYTES);
  return own + (ahead > 0 ? max<f64>(0, rate * ahead - since) : 0);
}
