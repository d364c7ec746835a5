// SPDX-License-Identifier: Apache-2.0
// The queue in front of a cluster's endpoints. A request is sent when an endpoint has room: fewer than `room` uncached
// prompt bytes ahead. One that comes is granted the cheapest endpoint with room, unless waiting for the best one pays by
// more than `slack`; then it waits. When an endpoint has room again, one of the waiting is granted it:
//
//   1. its priority band, the first one first
//   2. its tenant, the one with the least tokens served over its weight
//   3. its turn: who is overdue, or has little time left until its deadline, before the others, the longest wait first;
//      the others by uncached time / (1 + ageing · waited), the least first
//
// and only if no other endpoint would do it sooner by more than the slack. Overdue is who has waited longer than the
// tenant's whole backlog takes at the rate at which it was served lately: about as long as first come, first served
// would have let it wait. From there on its slack grows with time, so that every wait ends.
//
// A grant costs O(waiting + endpoints). Who decides holds the cluster's lock.

import {
  BLOCK_ROWS,
  C_BUSY_AT,
  C_FIRST_BLOCK,
  C_WAITING,
  cell,
  D_EVERYWHERE,
  D_MATCH,
  D_MATCHED,
  D_MATCHES,
  D_ROW,
  E_ELIGIBILITY,
  E_RATE,
  H_AGEING,
  H_OVERDUE,
  H_OVERDUE_BASE,
  H_SLACK,
  H_VIRTUAL,
  histogram,
  nextBlockBase,
  PHASE_WAITING,
  positionPrompt,
  positionScore,
  R_ADAPTER,
  R_BAND,
  R_CLUSTER,
  R_DEADLINE,
  R_EVERYWHERE,
  R_GENERATION,
  R_MASK,
  R_MATCH,
  R_MATCHES,
  R_PHASE,
  R_PROMPT,
  R_QUEUED,
  R_TENANT,
  REQUEST_BYTES,
  requestBase,
  requestsPerWorker,
  scratch,
  SERVING,
  T_DRAIN_AT,
  T_DRAIN_TIME,
  T_DRAINED,
  T_VIRTUAL,
  T_WAITING,
  T_WEIGHT,
  T_WORK,
  TENANT_BYTES,
  tenantBase,
  waitingBase,
  WILLING,
  workers,
} from "./layout";
import {
  adapterMs,
  aheadOf,
  baseOf,
  chargeOf,
  clusterAt,
  drawNear,
  greatest,
  hasRoom,
  observeBusy,
  parameter,
  queueOf,
  remoteShare,
  scoreLate,
  uncachedOf,
} from "./late_score";
import { lockCluster, unlockCluster } from "./lock";
import { dequeue, enqueue, requestGrant, stampOf } from "./request";
import { gather, rowOf } from "./score";

/** `arrive`: the request waits. */
export const QUEUED: i32 = -2;
/** An endpoint that changes hands between choice and grant is chosen again this often. */
const MOST_CHOICES: u32 = 16;
/** Ms over which the rate of service is averaged. */
const DRAIN_MS: f64 = 10_000;
/** Ms of service at the endpoints' own rates that count as seen before the first. */
const PRIOR_MS: f64 = 2_000;
/** A deadline is near when less than this is left beyond the prefill, ms. */
const NEAR_MS: f64 = 250;
/** Endpoints that are kept at hand as the alternatives of requests that nobody holds. */
const ALTERNATIVES: u32 = 4;

// @ts-ignore: decorator
@inline
function rowAt(row: u32): usize {
  return requestBase + <usize>row * REQUEST_BYTES;
}

// @ts-ignore: decorator
@inline
function tenantAt(tenant: u32): usize {
  return tenantBase + <usize>tenant * TENANT_BYTES;
}

// Copies what was looked up for a request into its row.
function carry(at: usize): void {
  const matches = load<u32>(scratch, D_MATCHES);
  store<u32>(at, load<u32>(scratch, D_EVERYWHERE), R_EVERYWHERE);
  store<u32>(at, matches, R_MATCHES);
  memory.copy(at + R_MATCH, scratch + D_MATCH, <usize>matches << 3);
}

/** Scores the candidates of a request, for `arrive` and for a choice without a queue. Returns their number. */
export function scoreCluster(cluster: u32, mask: u32, promptBytes: u32, adapter: u32, now: f64): u32 {
  const willing = gather(cluster, mask | WILLING, 0);
  const candidates = willing != 0 ? willing : gather(cluster, mask, 0);
  if (candidates == 0) return 0;
  const busy = scoreLate(cluster, promptBytes, chargeOf(cluster), adapter, stampOf(now));
  observeBusy(cluster, <f64>busy / <f64>candidates, now);
  return candidates;
}

/**
 * A request that was opened and looked up asks for an endpoint. Returns its row when one is granted, -1 when there is
 * none, QUEUED when the request waits for a grant.
 */
export function arrive(
  row: u32,
  generation: u32,
  mask: u32,
  adapter: u32,
  band: u32,
  tenant: u32,
  deadline: f64,
  now: f64,
): i32 {
  const at = rowAt(row);
  const cluster = load<u32>(at, R_CLUSTER);
  const prompt = load<u32>(at, R_PROMPT);
  store<f64>(at, now, R_QUEUED);
  store<f64>(at, deadline, R_DEADLINE);
  store<u32>(at, mask, R_MASK);
  store<u32>(at, adapter, R_ADAPTER);
  store<u32>(at, band, R_BAND);
  store<u32>(at, tenant, R_TENANT);
  carry(at);
  lockCluster(cluster);
  const result = placeOrQueue(at, row, generation, cluster, mask, prompt, adapter, tenant, now);
  unlockCluster(cluster);
  return result;
}

function placeOrQueue(
  at: usize,
  row: u32,
  generation: u32,
  cluster: u32,
  mask: u32,
  prompt: u32,
  adapter: u32,
  tenant: u32,
  now: f64,
): i32 {
  for (let choice: u32 = 0; choice < MOST_CHOICES; choice++) {
    if (scoreCluster(cluster, mask, prompt, adapter, now) == 0) return -1;
    const scores = scratch + positionScore;
    const roomy = scratch + positionPrompt;
    const best = greatest(scores);
    const free = greatest(roomy);
    if (free < best - parameter(H_SLACK)) {
      const home = rowOf(drawNear(scores, best));
      if (load<u32>(tenantAt(tenant), T_WAITING) == 0) {
        // Time that a tenant did not ask for is no credit.
        const virtual = atomic.load<u64>(H_VIRTUAL * 4);
        if (load<u64>(tenantAt(tenant), T_VIRTUAL) < virtual) atomic.store<u64>(tenantAt(tenant) + T_VIRTUAL, virtual);
      }
      observeDrain(tenantAt(tenant), 0, now);
      enqueue(row, uncachedOf(prompt, chunksOn(at, home)));
      return QUEUED;
    }
    const endpoint = rowOf(drawNear(roomy, free));
    const chunks = chunksOn(at, endpoint);
    if (requestGrant(row, generation, endpoint, chunks) == 1) {
      charge(at, tenant, uncachedOf(prompt, chunks), now);
      store<u32>(scratch, endpoint, D_ROW);
      store<u32>(scratch, chunks, D_MATCHED);
      return <i32>endpoint;
    }
  }
  return -1;
}

// Leading chunks of a row's prompt that an endpoint is presumed to hold.
function chunksOn(at: usize, endpoint: u32): u32 {
  const matches = load<u32>(at, R_MATCHES);
  for (let m: u32 = 0; m < matches; m++) {
    const pair = at + R_MATCH + (<usize>m << 3);
    if (load<u32>(pair) == endpoint) return load<u32>(pair, 4);
  }
  return load<u32>(at, R_EVERYWHERE);
}

// Time passes for a tenant's rate of service; `work` bytes of it are granted now.
function observeDrain(tenant: usize, work: u32, now: f64): void {
  const passed = now - load<f64>(tenant, T_DRAIN_AT);
  store<f64>(tenant, now, T_DRAIN_AT);
  if (passed > 0 && load<u32>(tenant, T_WAITING) > 0) {
    const kept = DRAIN_MS / (DRAIN_MS + passed);
    store<f64>(tenant, load<f64>(tenant, T_DRAINED) * kept, T_DRAINED);
    store<f64>(tenant, load<f64>(tenant, T_DRAIN_TIME) * kept + passed, T_DRAIN_TIME);
  }
  store<f64>(tenant, load<f64>(tenant, T_DRAINED) + <f64>work, T_DRAINED);
}

// A tenant is served: its virtual time moves on by the prompt over its weight.
function charge(at: usize, tenant: u32, work: u32, now: f64): void {
  const books = tenantAt(tenant);
  if (load<u32>(books, T_WAITING) > 0) observeDrain(books, work, now);
  const virtual = load<u64>(books, T_VIRTUAL);
  if (virtual > atomic.load<u64>(H_VIRTUAL * 4)) atomic.store<u64>(H_VIRTUAL * 4, virtual);
  serve(tenant, <f64>load<u32>(at, R_PROMPT));
}

/** Adds bytes of a tenant's prompts or answers to what it was served. */
export function serve(tenant: u32, bytes: f64): void {
  const books = tenantAt(tenant);
  const weight = max<f64>(1e-3, <f64>load<f32>(books, T_WEIGHT));
  atomic.add<u64>(books + T_VIRTUAL, <u64>max<f64>(0, bytes * 1024 / weight));
}

/**
 * Looks a waiting row's prompt up again: what was found is in scratch. Returns the number of endpoints that could be
 * granted to it, 1 when it waits no more.
 */
export function refresh(row: u32, generation: u32): u32 {
  const at = rowAt(row);
  if (load<u32>(at, R_GENERATION) != generation || atomic.load<u32>(at, R_PHASE) != PHASE_WAITING) return 1;
  carry(at);
  return gather(load<u32>(at, R_CLUSTER), load<u32>(at, R_MASK), 0);
}

/** Ms that what a tenant has waiting takes at the rate at which it was served lately. */
export function backlogMs(cluster: u32, tenant: u32): f64 {
  survey(cluster, SERVING, remoteShare(cluster), load<f64>(clusterAt(cluster), C_BUSY_AT));
  return <f64>load<u32>(tenantAt(tenant), T_WORK) / serviceRate(tenantAt(tenant));
}

// The alternatives: pairs of endpoint row (u32) and base (f32), where a pick has its histogram.
// @ts-ignore: decorator
@inline
function alternative(i: u32): usize {
  return scratch + histogram + (<usize>i << 3);
}

let leastQueue: f32 = 0;
let alternatives: u32 = 0;
/** Prompt bytes that all endpoints together prefill in a ms. */
let fleetRate: f64 = 0;

// Looks at all endpoints once: the shortest queue, and the cheapest bases.
function survey(cluster: u32, wanted: u32, share: f32, now: f64): void {
  leastQueue = f32.MAX_VALUE;
  fleetRate = 0;
  let serving: u32 = 0;
  let busy: u32 = 0;
  for (let pass: u32 = 0; pass < 2; pass++) {
    alternatives = 0;
    let block = load<u32>(clusterAt(cluster), C_FIRST_BLOCK);
    while (block != 0) {
      block--;
      for (let row = block * BLOCK_ROWS; row < (block + 1) * BLOCK_ROWS; row++) {
        if ((load<u32>(cell(E_ELIGIBILITY, row)) & wanted) != wanted) continue;
        if (pass == 0) {
          leastQueue = min(leastQueue, queueOf(row));
          serving++;
          fleetRate += 1 / max<f64>(1e-9, <f64>load<f32>(cell(E_RATE, row)));
          if (aheadOf(row, share) > 0) busy++;
        } else keepCheapest(row, baseOf(row, share, leastQueue, stampOf(now)));
      }
      block = load<u32>(nextBlockBase + (<usize>block << 2));
    }
  }
  if (serving > 0) observeBusy(cluster, <f64>busy / <f64>serving, now);
}

function keepCheapest(row: u32, base: f32): void {
  let i = alternatives;
  if (i == ALTERNATIVES) {
    if (base >= load<f32>(alternative(i - 1), 4)) return;
    i--;
  } else alternatives++;
  for (; i > 0 && load<f32>(alternative(i - 1), 4) > base; i--) {
    store<u64>(alternative(i), load<u64>(alternative(i - 1)));
  }
  store<u32>(alternative(i), row);
  store<f32>(alternative(i), base, 4);
}

// Cost of a waiting request on an endpoint with this base.
// @ts-ignore: decorator
@inline
function costOn(endpoint: u32, base: f32, work: u32, price: f32, adapter: u32): f32 {
  return base + load<f32>(cell(E_RATE, endpoint)) * <f32>work * price + adapterMs(endpoint, adapter);
}

/**
 * Grants the requests that wait to an endpoint while it has room and somebody wants it. Called when room may have
 * appeared, by any thread. Returns the number of grants.
 */
export function fill(cluster: u32, endpoint: u32, now: f64): u32 {
  if (load<u32>(clusterAt(cluster), C_WAITING) == 0) return 0;
  lockCluster(cluster);
  const share = remoteShare(cluster);
  let granted: u32 = 0;
  if (open(endpoint, SERVING | WILLING, share, stampOf(now))) {
    survey(cluster, SERVING | WILLING, share, now);
    granted = fillSurveyed(cluster, endpoint, share, now);
  }
  unlockCluster(cluster);
  return granted;
}

/** `fill` of every endpoint of a cluster with room. Endpoints that asked to be left alone are filled when all did. */
export function fillAll(cluster: u32, now: f64): u32 {
  if (load<u32>(clusterAt(cluster), C_WAITING) == 0) return 0;
  lockCluster(cluster);
  const share = remoteShare(cluster);
  let wanted: u32 = SERVING | WILLING;
  survey(cluster, wanted, share, now);
  if (alternatives == 0) {
    wanted = SERVING;
    survey(cluster, wanted, share, now);
  }
  let granted: u32 = 0;
  let block = load<u32>(clusterAt(cluster), C_FIRST_BLOCK);
  while (block != 0) {
    block--;
    for (let row = block * BLOCK_ROWS; row < (block + 1) * BLOCK_ROWS; row++) {
      if (!open(row, wanted, share, stampOf(now))) continue;
      const grants = fillSurveyed(cluster, row, share, now);
      granted += grants;
      if (grants > 0) survey(cluster, wanted, share, now);
    }
    block = load<u32>(nextBlockBase + (<usize>block << 2));
  }
  unlockCluster(cluster);
  return granted;
}

// @ts-ignore: decorator
@inline
function open(endpoint: u32, wanted: u32, share: f32, stamp: u32): bool {
  return (load<u32>(cell(E_ELIGIBILITY, endpoint)) & wanted) == wanted && hasRoom(endpoint, share, stamp);
}

function fillSurveyed(cluster: u32, endpoint: u32, share: f32, now: f64): u32 {
  let granted: u32 = 0;
  while (hasRoom(endpoint, share, stampOf(now))) {
    const row = next(cluster, endpoint, share, now);
    if (row < 0) break;
    const at = rowAt(row);
    const generation = load<u32>(at, R_GENERATION);
    const tenant = load<u32>(at, R_TENANT);
    const chunks = chunksOn(at, endpoint);
    const result = requestGrant(row, generation, endpoint, chunks);
    if (result == -1) break;
    if (result == 0) continue; // its owner was faster, and has taken it out of the queue or is about to
    charge(at, tenant, uncachedOf(load<u32>(at, R_PROMPT), chunks), now);
    dequeue(row);
    granted++;
    const base = baseOf(endpoint, share, leastQueue, stampOf(now));
    for (let i: u32 = 0; i < alternatives; i++) {
      if (load<u32>(alternative(i)) == endpoint) store<f32>(alternative(i), base, 4);
    }
  }
  return granted;
}

// The waiting request whose turn it is on an endpoint, or -1.
function next(cluster: u32, endpoint: u32, share: f32, now: f64): i32 {
  const price: f32 = 1 + chargeOf(cluster);
  const base = baseOf(endpoint, share, leastQueue, stampOf(now));
  const eligibility = load<u32>(cell(E_ELIGIBILITY, endpoint));
  const words = (workers * requestsPerWorker + 31) >> 5;
  let chosen: i32 = -1;
  let band: u32 = u32.MAX_VALUE;
  let virtual: u64 = u64.MAX_VALUE;
  let turn: f64 = Infinity;
  for (let word: u32 = 0; word < words; word++) {
    let bits = atomic.load<u32>(waitingBase + (<usize>word << 2));
    for (; bits != 0; bits &= bits - 1) {
      const row = (word << 5) + ctz<u32>(bits);
      const at = rowAt(row);
      if (load<u32>(at, R_CLUSTER) != cluster || load<u32>(at, R_PHASE) != PHASE_WAITING) continue;
      const mask = load<u32>(at, R_MASK);
      if ((eligibility & mask) != mask) continue;
      const itsBand = load<u32>(at, R_BAND);
      if (itsBand > band) continue;
      const tenant = tenantAt(load<u32>(at, R_TENANT));
      const itsVirtual = load<u64>(tenant, T_VIRTUAL);
      if (itsBand == band && itsVirtual > virtual) continue;
      const work = uncachedOf(load<u32>(at, R_PROMPT), chunksOn(at, endpoint));
      const ms = <f64>load<f32>(cell(E_RATE, endpoint)) * <f64>work;
      const waited = now - load<f64>(at, R_QUEUED);
      const late = waited - overdueAfter(tenant);
      const deadline = load<f64>(at, R_DEADLINE);
      const left = deadline > 0 ? deadline - now - ms : Infinity;
      const urgent = late > 0 || left < NEAR_MS;
      const itsTurn: f64 = urgent ? -1e12 - max(waited, NEAR_MS - left) : ms / (1 + <f64>parameter(H_AGEING) * waited);
      if (itsBand == band && itsVirtual == virtual && itsTurn >= turn) continue;
      const slack = <f64>parameter(H_SLACK) + max<f64>(0, late) + max<f64>(0, NEAR_MS - left);
      if (!wants(at, endpoint, base, work, price, mask, share, slack, stampOf(now))) continue;
      chosen = <i32>row;
      band = itsBand;
      virtual = itsVirtual;
      turn = itsTurn;
    }
  }
  return chosen;
}

// Ms after which a request of this tenant is overdue.
// @ts-ignore: decorator
@inline
function overdueAfter(tenant: usize): f64 {
  const backlog = <f64>load<u32>(tenant, T_WORK) / serviceRate(tenant);
  return <f64>parameter(H_OVERDUE) * backlog + <f64>parameter(H_OVERDUE_BASE);
}

// Bytes of prefill work a ms that a tenant was granted lately while it had some waiting.
// @ts-ignore: decorator
@inline
function serviceRate(tenant: usize): f64 {
  const drained = load<f64>(tenant, T_DRAINED) + PRIOR_MS * fleetRate;
  return max<f64>(1e-9, drained / (load<f64>(tenant, T_DRAIN_TIME) + PRIOR_MS));
}

// Whether an endpoint suits a request: no other would do it sooner by more than the slack.
function wants(at: usize, endpoint: u32, base: f32, work: u32, price: f32, mask: u32, share: f32, slack: f64, stamp: u32): bool {
  const adapter = load<u32>(at, R_ADAPTER);
  const most = <f32>(<f64>costOn(endpoint, base, work, price, adapter) - slack);
  const prompt = load<u32>(at, R_PROMPT);
  const matches = load<u32>(at, R_MATCHES);
  for (let m: u32 = 0; m < matches; m++) {
    const pair = at + R_MATCH + (<usize>m << 3);
    const other = load<u32>(pair);
    if (other == endpoint || (load<u32>(cell(E_ELIGIBILITY, other)) & mask) != mask) continue;
    const its = uncachedOf(prompt, load<u32>(pair, 4));
    if (costOn(other, baseOf(other, share, leastQueue, stamp), its, price, adapter) < most) return false;
  }
  for (let i: u32 = 0; i < alternatives; i++) {
    const other = load<u32>(alternative(i));
    if (other == endpoint || (load<u32>(cell(E_ELIGIBILITY, other)) & mask) != mask) continue;
    const its = uncachedOf(prompt, chunksOn(at, other));
    if (costOn(other, load<f32>(alternative(i), 4), its, price, adapter) < most) return false;
  }
  return true;
}
