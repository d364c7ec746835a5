// SPDX-License-Identifier: Apache-2.0
// The inference_lb score of what was gathered, four rows at a time:
//
//   delta     = max(2, max(queue) - min(queue))
//   request_i = (queue_i - min(queue)) / delta
//   prefill_i = prompt_i / max(floor, max(prompt))
//   score_i   = W_cache · cache_i - W_request · ceil(delta / 5) · request_i - W_prefill · prefill_i

import { positionPrompt, positionQueue, positionScore, question, questionMatch, scratch } from "../memory/plan";
import { CHUNK_BYTES } from "../memory/prefix";
import { bytesOf } from "../prefix/known";
import { isGathered, positionOf } from "./gather";

/** Scores what `gather` gathered by the inference_lb formula. A weight of 0 leaves its term out. */
export function scoreInferenceLb(): void {
  const cacheWeight = question().cacheWeight;
  const prefillWeight = question().prefillWeight;
  const positions = question().positions;
  const queues = scratch + positionQueue;
  const prompts = scratch + positionPrompt;
  const scores = scratch + positionScore;
  const hashed = <f32>(question().chunks * CHUNK_BYTES);
  const minQueue = question().minRequests;
  const delta = max<f32>(2, question().maxRequests - minQueue);
  const promptScale = max<f32>(question().promptFloor, question().maxPrompt);
  const requestFactor = question().requestWeight * ceil<f32>(delta / 5);
  const shared: f32 = hashed == 0 ? 0 : cacheWeight * (<f32>bytesOf(question().everywhere) / hashed);

  const infinity = f32x4.splat(f32.MAX_VALUE * 2);
  const nothing = f32x4.splat(-f32.MAX_VALUE * 2);
  const minimum = f32x4.splat(minQueue);
  const range = f32x4.splat(delta);
  const scale = f32x4.splat(promptScale);
  const wRequest = f32x4.splat(requestFactor);
  const wPrefill = f32x4.splat(prefillWeight);
  const base = f32x4.splat(shared);
  const end = <usize>positions << 2;
  for (let at: usize = 0; at < end; at += 16) {
    const q = v128.load(queues + at);
    const request = f32x4.mul(wRequest, f32x4.div(f32x4.sub(q, minimum), range));
    const prefill = f32x4.mul(wPrefill, f32x4.div(v128.load(prompts + at), scale));
    const score = f32x4.sub(f32x4.sub(base, request), prefill);
    v128.store(scores + at, v128.bitselect(nothing, score, f32x4.eq(q, infinity)));
  }
  if (hashed == 0) return;

  const matches = question().matches;
  for (let m: u32 = 0; m < matches; m++) {
    const match = questionMatch(m);
    if (!isGathered(match.row)) continue;
    const at = <usize>positionOf(match.row) << 2;
    const q = load<f32>(queues + at);
    if (q == Infinity) continue;
    const cache = cacheWeight * (<f32>bytesOf(match.bytes) / hashed);
    const request = requestFactor * ((q - minQueue) / delta);
    const prefill = prefillWeight * (load<f32>(prompts + at) / promptScale);
    store<f32>(scores + at, cache - request - prefill);
  }
}
