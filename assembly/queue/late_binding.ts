// SPDX-License-Identifier: Apache-2.0
// The queue in front of a cluster's endpoints. A request is sent when an endpoint has room: fewer than `room` uncached
// prompt bytes ahead, or so few that with its own they are no more than `pack`. One that comes is granted the cheapest endpoint with room, unless waiting for the best one pays by
// more than `slack`; then it waits. When an endpoint has room again, one of the waiting is granted it, whose turn it is
// (order.ts). A grant costs O(waiting + endpoints). Who decides holds the cluster's lock.

import { GROUP_ROWS, ENDPOINT_ELIGIBILITY, ENDPOINT_PROMPT, NOT_BACKED_OFF, SERVING, stampOf } from "../memory/endpoint";
import { header } from "../memory/header";
import {
  groupAfter,
  cell,
  clusterRow,
  enter,
  firstGroupOf,
  leave,
  positionPrompt,
  positionScore,
  question,
  requestAt,
  requestRow,
  requestsPerWorker,
  scratch,
  tenantRow,
  workers,
} from "../memory/plan";
import { QUESTION_MATCH } from "../memory/question";
import { PHASE_PREFILLING, PHASE_WAITING, REQUEST_MATCH, REQUEST_PHASE, RequestRow } from "../memory/request_row";
import { uncachedOf } from "../prefix/known";
import { requestGrant } from "../request";
import { flightMs } from "../score/flight";
import { gather, rowOf } from "../score/gather";
import { drawNear, hasRoom, observeBusy, remoteShare, scoreLate, takes } from "../score/late";
import { observeFlow, packOf } from "../score/pack";
import { greatest } from "../score/pick";
import { enqueue } from "./enqueue";
import { charge, observeDrain } from "./fair_share";
import { observeDemand, tooLate } from "./forecast";
import { lockCluster, unlockCluster } from "./lock";
import { leastWork, matchedOn, next, nextGeneration, rejoin } from "./order";
import { rebase, survey } from "./survey";

/** `arrive`: the request waits; or it would come too late to its first token, and does not. */
export const QUEUED: i32 = -2;
export const HOPELESS: i32 = -3;
/** Bands up to these are of the first and the second class of priority. */
const FIRST_CLASS: u32 = 900;
const SECOND_CLASS: u32 = 1000;
/** An endpoint that changes hands between choice and grant is chosen again this often. */
const MAX_CHOICES: u32 = 16;

// Copies what was looked up for a request into its row.
function carry(request: RequestRow): void {
  const matches = question().matches;
  request.everywhere = question().everywhere;
  request.hot = question().hot;
  request.shared = question().shared;
  request.matches = matches;
  memory.copy(changetype<usize>(request) + REQUEST_MATCH, scratch + QUESTION_MATCH, <usize>matches << 3);
}

/** Scores the candidates of the question, for `arrive` and for a choice without a queue. Returns their number. */
export function scoreCluster(): u32 {
  const found = gather(question().mask | NOT_BACKED_OFF, ENDPOINT_PROMPT);
  const candidates = found != 0 ? found : gather(question().mask, ENDPOINT_PROMPT);
  if (candidates == 0) return 0;
  const busy = scoreLate();
  observeBusy(question().cluster, <f64>busy / <f64>candidates, question().now);
  return candidates;
}

/**
 * A request that was opened and looked up asks for an endpoint. The question has what it needs beside its row: mask,
 * adapter, band, tenant, deadline and now. Returns the endpoint's row when one is granted, -1 when there is none, QUEUED
 * when the request waits for a grant.
 */
export function arrive(row: u32, generation: u32): i32 {
  const request = requestRow(row);
  const cluster = request.cluster;
  const band = question().band;
  question().cluster = cluster;
  question().promptBytes = request.prompt;
  request.queued = question().now;
  request.deadline = question().deadline;
  request.mask = question().mask;
  request.adapter = question().adapter;
  request.band = band;
  request.tenant = question().tenant;
  request.priorityClass = band <= FIRST_CLASS ? 0 : band <= SECOND_CLASS ? 1 : 2;
  carry(request);
  lockCluster(cluster);
  const result = placeOrQueue(row, generation);
  unlockCluster(cluster);
  return result;
}

function placeOrQueue(row: u32, generation: u32): i32 {
  for (let choice: u32 = 0; choice < MAX_CHOICES; choice++) {
    if (scoreCluster() == 0) return -1;
    const scores = scratch + positionScore;
    const roomy = scratch + positionPrompt;
    const best = greatest(scores);
    const free = greatest(roomy);
    const endpoint = rowOf(drawNear(roomy, free));
    if (free + flightMs(endpoint) < best - header().slack) return queueFor(row, rowOf(drawNear(scores, best)));
    const now = question().now;
    const share = remoteShare(question().cluster);
    if (clusterRow(question().cluster).waiting != 0 && !hasRoom(endpoint, share, stampOf(now))) {
      return queueAt(row, endpoint, share, now);
    }
    question().row = endpoint;
    question().matched = matchedOn(requestRow(row), endpoint);
    if (requestGrant(row, generation, now) == 1) {
      const work = uncachedOf(question().promptBytes, question().matched);
      observeDemand(question().cluster, requestRow(row).priorityClass, work, question().now);
      charge(question().tenant, question().promptBytes, work, false, question().now);
      observeFlow(question().cluster, question().tenant, question().band, question().now);
      return <i32>endpoint;
    }
  }
  return -1;
}

// Where others wait, one that is small enough for an endpoint without room takes its turn among them.
function queueAt(row: u32, endpoint: u32, share: f32, now: f64): i32 {
  const cluster = question().cluster;
  const result = queueFor(row, endpoint);
  if (result == QUEUED) {
    survey(cluster, SERVING | NOT_BACKED_OFF, share, now);
    fillSurveyed(cluster, endpoint, share, now);
  }
  return result;
}

// Lets the request of the question wait, if there is time: `home` is the endpoint that would be best for it.
function queueFor(row: u32, home: u32): i32 {
  const request = requestRow(row);
  const now = question().now;
  rejoin(row, request.cluster, request.band);
  const work = uncachedOf(request.prompt, matchedOn(request, home));
  request.work = work;
  if (tooLate(request, true, now)) return HOPELESS;
  // While there is an endpoint that is not backed off, it waits for such a one.
  if ((load<u32>(cell(ENDPOINT_ELIGIBILITY, home)) & NOT_BACKED_OFF) != 0) request.mask |= NOT_BACKED_OFF;
  observeDrain(tenantRow(request.tenant), 0, now);
  observeDemand(request.cluster, request.priorityClass, work, now);
  enqueue(row, work);
  return QUEUED;
}

/**
 * Looks a waiting row's prompt up again: what was found is in scratch. Returns the number of endpoints that could be
 * granted to it, 1 when it waits no more, HOPELESS when its first token would come too late.
 */
export function refresh(row: u32, generation: u32, now: f64): i32 {
  const at = requestAt(row);
  const request = changetype<RequestRow>(at);
  if (request.generation != generation || atomic.load<u32>(at, REQUEST_PHASE) != PHASE_WAITING) return 1;
  carry(request);
  enter(request.cluster);
  const found = lookAgain(request, now);
  leave();
  return found;
}

function lookAgain(request: RequestRow, now: f64): i32 {
  question().cluster = request.cluster;
  question().adapter = request.adapter;
  const mask = request.mask | NOT_BACKED_OFF;
  const count = gather(mask, ENDPOINT_PROMPT);
  request.mask = count > 0 ? mask : mask & ~NOT_BACKED_OFF;
  const found = count > 0 ? count : gather(request.mask, ENDPOINT_PROMPT);
  return found > 0 && tooLate(request, false, now) ? HOPELESS : <i32>found;
}

/**
 * Marks the request to be given up for one of a band up to `band`: of the lowest priority, no better than `lowest`, sent
 * and without a first token, the latest of these. Returns its row, or -1.
 */
export function preempt(cluster: u32, lowest: u32): i32 {
  let chosen: i32 = -1;
  let band = lowest;
  let sent: f64 = 0;
  for (let row: u32 = 0; row < workers * requestsPerWorker; row++) {
    const request = requestRow(row);
    if (request.phase != PHASE_PREFILLING || request.cluster != cluster) continue;
    if (request.band < band || request.preempted != 0) continue;
    if (request.band == band && request.sent < sent) continue;
    chosen = row;
    band = request.band;
    sent = request.sent;
  }
  if (chosen >= 0) requestRow(chosen).preempted = 1;
  return chosen;
}

/**
 * Grants the requests that wait to an endpoint while it has room and somebody wants it. Called when room may have
 * appeared, by any thread. Returns the number of grants.
 */
export function fill(cluster: u32, endpoint: u32, now: f64): u32 {
  if (clusterRow(cluster).waiting == 0) return 0;
  lockCluster(cluster);
  const share = remoteShare(cluster);
  let granted: u32 = 0;
  if (open(cluster, endpoint, share, now)) {
    survey(cluster, SERVING | NOT_BACKED_OFF, share, now);
    granted = fillSurveyed(cluster, endpoint, share, now);
  }
  unlockCluster(cluster);
  return granted;
}

/** `fill` of every endpoint of a cluster with room. */
export function fillAll(cluster: u32, now: f64): u32 {
  if (clusterRow(cluster).waiting == 0) return 0;
  lockCluster(cluster);
  const share = remoteShare(cluster);
  survey(cluster, SERVING | NOT_BACKED_OFF, share, now);
  let granted: u32 = 0;
  let group = firstGroupOf(cluster);
  while (group != 0) {
    group--;
    for (let row = group * GROUP_ROWS; row < (group + 1) * GROUP_ROWS; row++) {
      if (!open(cluster, row, share, now)) continue;
      const grants = fillSurveyed(cluster, row, share, now);
      granted += grants;
      if (grants > 0) survey(cluster, SERVING | NOT_BACKED_OFF, share, now);
    }
    group = groupAfter(group);
  }
  unlockCluster(cluster);
  return granted;
}

@inline
function open(cluster: u32, endpoint: u32, share: f32, now: f64): bool {
  return (load<u32>(cell(ENDPOINT_ELIGIBILITY, endpoint)) & SERVING) != 0 &&
    takes(endpoint, 0, packOf(cluster, now), share, stampOf(now));
}

function fillSurveyed(cluster: u32, endpoint: u32, share: f32, now: f64): u32 {
  let granted: u32 = 0;
  let least: u32 = 0;
  while (takes(endpoint, least, packOf(cluster, now), share, stampOf(now))) {
    const row = next(cluster, endpoint, share, now);
    if (row < 0) break;
    least = leastWork;
    const request = requestRow(row);
    const tenant = request.tenant;
    const prompt = request.prompt;
    const band = request.band;
    question().row = endpoint;
    question().matched = matchedOn(request, endpoint);
    const result = requestGrant(row, nextGeneration, now);
    if (result == -1) break;
    if (result == 0) continue; // its owner was faster
    charge(tenant, prompt, uncachedOf(prompt, question().matched), true, now);
    observeFlow(cluster, tenant, band, now);
    granted++;
    rebase(endpoint, share, now);
  }
  return granted;
}
