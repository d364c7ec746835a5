// SPDX-License-Identifier: Apache-2.0
// One decision: hash the prompt text in scratch, look its prefixes up, gather the candidates, score, pick. Everything
// that `explain` shows is left in scratch.

import { CLUSTER_TURN } from "./memory/cluster";
import { NOT_BACKED_OFF } from "./memory/endpoint";
import { header } from "./memory/header";
import {
  clusterAt,
  enter,
  leave,
  positionPrompt,
  positionScore,
  question,
  questionMatch,
  scratch,
} from "./memory/plan";
import { CHUNK_BYTES } from "./memory/prefix";
import { hashPrompt } from "./prefix/hash";
import { blocksLookup } from "./prefix/blocks";
import { indexLookup } from "./prefix/index";
import { scoreCluster } from "./queue/late_binding";
import { below } from "./random";
import { scoreAdapter } from "./score/adapter";
import { scoreExpected } from "./score/expected";
import { flightMs } from "./score/flight";
import { gather, rowOf } from "./score/gather";
import { scoreInferenceLb } from "./score/inference_lb";
import { drawNear } from "./score/late";
import { greatest, nthCandidate, pickBest } from "./score/pick";
import { scoreAlike, scoreLeastRequest } from "./score/plain";
import { scoreSlo } from "./score/slo";

export const POLICY_INFERENCE_LB: u32 = 0;
export const POLICY_RANDOM: u32 = 1;
export const POLICY_ROUND_ROBIN: u32 = 2;
export const POLICY_LEAST_REQUEST: u32 = 3;
export const POLICY_EXPECTED_TTFT: u32 = 4;
export const POLICY_SLO: u32 = 5;
export const POLICY_LATE_BINDING: u32 = 6;

/** Hashes the prompt text in scratch and looks it up: the part of a decision that a retry need not repeat. */
export function lookUp(promptBytes: u32, salt: u32): u32 {
  const chunks = hashPrompt(promptBytes, CHUNK_BYTES);
  question().blocks = 0;
  question().chunks = chunks;
  indexLookup(chunks, salt);
  return chunks;
}

/** Looks a prompt up again whose hashes, and keys of blocks if the question has any, stand in scratch. */
export function lookUpAgain(chunks: u32, salt: u32): void {
  indexLookup(chunks, salt);
  if (question().blocks != 0) blocksLookup();
}

/** Leaves the cache out of the decision that follows. */
export function lookUpNothing(): void {
  question().blocks = 0;
  question().chunks = 0;
  question().everywhere = 0;
  question().hot = 0;
  question().shared = 0;
  question().matches = 0;
}

/**
 * Chooses as the question asks: among the cluster's rows that have all bits of its mask; those that asked to be left
 * alone only when there is no other. expected_ttft, slo and late_binding reckon in ms; late_binding is what `arrive` would
 * choose if nobody could wait. Returns the row, or -1 when there is no candidate.
 */
export function choose(): i32 {
  enter(question().cluster);
  const row = chooseInside();
  leave();
  question().restricted = 0;
  return row;
}

function chooseInside(): i32 {
  const policy = question().policy;
  if (policy == POLICY_LATE_BINDING) return chooseLate();
  let candidates = gather(question().mask | NOT_BACKED_OFF, question().promptColumn);
  if (candidates == 0) candidates = gather(question().mask, question().promptColumn);
  if (candidates == 0) return (question().row = -1);
  let position: u32;
  if (policy == POLICY_INFERENCE_LB) {
    scoreInferenceLb();
    if (question().adapter != 0) scoreAdapter(question().adapterWeight);
    const best = <u32>(<f32>candidates * question().percent / 100);
    position = pickBest(min(candidates, max<u32>(1, best)));
  } else if (policy == POLICY_EXPECTED_TTFT || policy == POLICY_SLO) {
    scoreExpected();
    if (question().adapter != 0) scoreAdapter(header().adapter);
    if (policy == POLICY_SLO) scoreSlo();
    position = drawNear(scratch + positionScore, greatest(scratch + positionScore));
  } else if (policy == POLICY_LEAST_REQUEST) {
    scoreLeastRequest();
    position = pickBest(1);
  } else {
    scoreAlike();
    position = policy == POLICY_ROUND_ROBIN
      ? nthCandidate(atomic.add<u32>(clusterAt(question().cluster) + CLUSTER_TURN, 1) % candidates)
      : nthCandidate(below(candidates));
  }
  return chosen(position);
}

function chosen(position: u32): i32 {
  const row = rowOf(position);
  question().row = row;
  question().matched = matchedBytes(row);
  return <i32>row;
}

function chooseLate(): i32 {
  if (scoreCluster() == 0) return (question().row = -1);
  const scores = scratch + positionScore;
  const roomy = scratch + positionPrompt;
  const best = greatest(scores);
  const free = greatest(roomy);
  const position = drawNear(roomy, free);
  const flight = flightMs(rowOf(position));
  return chosen(free + flight < best - header().slack ? drawNear(scores, best) : position);
}

/** Leading bytes of the looked-up prompt that a row is presumed to hold, or EXACT and those that its engine tells. */
export function matchedBytes(row: u32): u32 {
  const matches = question().matches;
  for (let m: u32 = 0; m < matches; m++) {
    const match = questionMatch(m);
    if (match.row == row) return match.bytes;
  }
  return question().everywhere;
}
