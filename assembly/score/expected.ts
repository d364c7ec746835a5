// SPDX-License-Identifier: Apache-2.0
// Scores by prediction, in milliseconds:
//
//   ttft_i = ahead_ms_i + run · queue_i + speed_i · predicted(prompt, cached_i)
//
// ahead_ms_i is the prefill work ahead as in late.ts, predicted() is the model's learned prefill time, speed_i
// how the endpoint's learned rate compares with the model's: it stands for the class of its hardware.

import { bytesOf } from "../prefix/known";
import { GROUP_ROWS, ENDPOINT_RATE, ENDPOINT_REMOTE_PROMPT, stampOf } from "../memory/endpoint";
import { header } from "../memory/header";
import {
  cell,
  positionGroup,
  positionPrompt,
  positionQueue,
  positionScore,
  question,
  questionMatch,
  requestRow,
  scratch,
} from "../memory/plan";
import { predictTtft, rateOf } from "../predictor";
import { isGathered, positionOf } from "./gather";
import { aheadMsOfFour, aheadOfFour, remoteShare, sinceOf, sinceOfFour } from "./late";

@inline
function groupRow(ordinal: u32): u32 {
  return load<u32>(scratch + positionGroup + (<usize>ordinal << 2)) * GROUP_ROWS;
}

/** Scores the gathered candidates by -ttft_i, and leaves speed_i · predicted() where the prompt loads were. */
export function scoreExpected(): void {
  const model = question().model;
  const promptBytes = question().promptBytes;
  const stamp = stampOf(question().now);
  const queues = scratch + positionQueue;
  const scores = scratch + positionScore;
  const owns = scratch + positionPrompt;
  const groups = question().positions / GROUP_ROWS;
  const infinity = f32x4.splat(f32.MAX_VALUE * 2);
  const nothing = f32x4.splat(-f32.MAX_VALUE * 2);
  const share = f32x4.splat(remoteShare(question().cluster));
  const run = f32x4.splat(header().run);
  const room = f32x4.splat(header().room);
  const mean = max<f32>(1e-9, <f32>rateOf(model));
  const everywhere = predictTtft(model, promptBytes, bytesOf(question().everywhere));
  const own = f32x4.splat(<f32>everywhere / mean);
  for (let ordinal: u32 = 0; ordinal < groups; ordinal++) {
    for (let lane: u32 = 0; lane < GROUP_ROWS; lane += 4) {
      const at = <usize>(ordinal * GROUP_ROWS + lane) << 2;
      const row = groupRow(ordinal) + lane;
      const q = v128.load(queues + at);
      const rate = v128.load(cell(ENDPOINT_RATE, row));
      const prefill = f32x4.mul(rate, own);
      const ahead = aheadMsOfFour(aheadOfFour(row, share), rate, sinceOfFour(row, stamp), room);
      const ttft = f32x4.add(f32x4.add(ahead, prefill), f32x4.mul(run, q));
      v128.store(scores + at, v128.bitselect(nothing, f32x4.neg(ttft), f32x4.eq(q, infinity)));
      v128.store(owns + at, prefill);
    }
  }
  const matches = question().matches;
  for (let m: u32 = 0; m < matches; m++) {
    const match = questionMatch(m);
    const row = match.row;
    if (!isGathered(row)) continue;
    const at = <usize>positionOf(row) << 2;
    const speed = load<f32>(cell(ENDPOINT_RATE, row)) / mean;
    const prefill = speed * <f32>predictTtft(model, promptBytes, bytesOf(match.bytes));
    store<f32>(scores + at, load<f32>(scores + at) + load<f32>(owns + at) - prefill);
    store<f32>(owns + at, prefill);
  }
}

/** Predicted ms from now to the first token of a granted request, with what is ahead of it on its endpoint. */
export function predictRequest(row: u32, now: f64): f64 {
  const request = requestRow(row);
  const endpoint = request.endpoint;
  const model = request.model;
  const rate = <f64>load<f32>(cell(ENDPOINT_RATE, endpoint));
  const remote = remoteShare(request.cluster) * <f32>load<u32>(cell(ENDPOINT_REMOTE_PROMPT, endpoint));
  const ahead = <f64>request.ahead + <f64>remote;
  const since = <f64>sinceOf(endpoint, stampOf(now));
  const speed = rate / max<f64>(1e-9, rateOf(model));
  const own = speed * predictTtft(model, request.prompt, bytesOf(request.cached));
  return own + (ahead > 0 ? max<f64>(0, rate * ahead - since) : 0);
}
