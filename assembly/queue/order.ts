// SPDX-License-Identifier: Apache-2.0
// Whose turn it is when an endpoint has room:
//
//   1. its priority band, the first one first
//   2. its tenant, the one with the least tokens served over its weight
//   3. its turn: who is overdue, or has little time left until its deadline, before the others, the longest wait first;
//      the others by uncached time / (1 + ageing · waited), the least first
//
// and only if no other endpoint would do it sooner by more than the slack. Overdue is who has waited longer than so
// many times what the tenant's whole backlog takes at the rate at which it was served lately; once is about as long as
// first come, first served would have let it wait. From there on its slack grows with time, so that every wait ends.

import { ENDPOINT_ELIGIBILITY, ENDPOINT_RATE, stampOf } from "../memory/endpoint";
import { header } from "../memory/header";
import {
  cell,
  requestAt,
  requestMatch,
  requestRow,
  requestsPerWorker,
  tenantAt,
  tenantRow,
  waitingBase,
  workers,
} from "../memory/plan";
import { PHASE_WAITING, REQUEST_GENERATION, RequestRow } from "../memory/request_row";
import { TENANT_VIRTUAL, TenantRow } from "../memory/tenant";
import { drawOf, pricedOf, uncachedOf } from "../prefix/known";
import { adapterMs, lists } from "../score/adapter";
import { flightMs, meanRate } from "../score/flight";
import { baseOf, chargeOf, easeMs, hasRoom, takes } from "../score/late";
import { packOf } from "../score/pack";
import { serviceRate, virtualOf } from "./fair_share";
import { alternative, alternatives, fleetRate } from "./survey";

/** Share of the time that it has waited by which a request's slack grows: the worse places there are, it takes. */
const IMPATIENCE: f64 = 0.5;
/** Share of the time that a request is overdue by which its slack grows. */
const LATE_SLACK: f64 = 0.1;
/** A deadline is near when less than this is left beyond the prefill, ms. */
const NEAR_MS: f64 = 250;
/** What is too large for the endpoint now is behind what is not, of the same tenant and band. */
const UNFIT_MS: f64 = 1e12;

// Leading bytes of a request's prompt that an endpoint is presumed to hold.
export function matchedOn(request: RequestRow, endpoint: u32): u32 {
  const matches = request.matches;
  for (let m: u32 = 0; m < matches; m++) {
    const match = requestMatch(request, m);
    if (match.row == endpoint) return match.bytes;
  }
  return request.everywhere;
}

// Bytes that a request counts for on an endpoint where it is decided whether it goes there.
@inline
function drawnWork(request: RequestRow, matched: u32): u32 {
  return uncachedOf(request.prompt, drawOf(matched, request.shared));
}

// Whether an endpoint may be granted a request of this mask and adapter.
@inline
function eligible(endpoint: u32, mask: u32, adapter: u32): bool {
  return (load<u32>(cell(ENDPOINT_ELIGIBILITY, endpoint)) & mask) == mask && lists(endpoint, adapter);
}

// Cost of a waiting request on an endpoint with this base, when a byte of capacity is worth `price` ms.
@inline
function costOn(request: RequestRow, endpoint: u32, base: f32, work: u32, price: f32): f32 {
  const capacity = price * <f32>pricedOf(work, request.prompt, request.hot);
  return base + load<f32>(cell(ENDPOINT_RATE, endpoint)) * <f32>work + capacity + adapterMs(endpoint, request.adapter);
}

/**
 * After `survey`: the least cost of a row's request, on the endpoints that hold it and the cheapest others, when it has
 * `left` of their rate until its turn; 0 when none of these is for it.
 */
export function minCost(request: RequestRow, left: f32, share: f32, stamp: u32): f32 {
  const mask = request.mask;
  const prompt = request.prompt;
  const adapter = request.adapter;
  const matches = request.matches;
  let cost = f32.MAX_VALUE;
  for (let m: u32 = 0; m < matches; m++) {
    const match = requestMatch(request, m);
    const endpoint = match.row;
    if (!eligible(endpoint, mask, adapter)) continue;
    const work = uncachedOf(prompt, match.bytes);
    const base = baseOf(endpoint, share, stamp) - easeMs(endpoint, work, share, stamp);
    cost = min(cost, costOn(request, endpoint, base / left, work, 0));
  }
  for (let i: u32 = 0; i < alternatives; i++) {
    const endpoint = alternative(i).endpoint;
    if (!eligible(endpoint, mask, adapter)) continue;
    const work = uncachedOf(prompt, matchedOn(request, endpoint));
    const base = alternative(i).base - easeMs(endpoint, work, share, stamp);
    cost = min(cost, costOn(request, endpoint, base / left, work, 0));
  }
  return cost == f32.MAX_VALUE ? 0 : cost;
}

/** Generation of the row that `next` returned. */
export let nextGeneration: u32 = 0;
/** No request that `next` looked at has less uncached bytes on the endpoint that it offered. */
export let leastWork: u32 = 0;

// The endpoint that `next` offers to those who wait: its row and base; what a byte of capacity is worth in ms, the share
// of remote prompt bytes that is work, the time.
let offered: u32 = 0;
let offeredBase: f32 = 0;
let price: f32 = 0;
let remote: f32 = 0;
let stamp: u32 = 0;

/**
 * The waiting request whose turn it is on an endpoint, or -1. One that is too large for what the endpoint takes now is
 * passed by smaller ones of its tenant, unless it is urgent; not by those of others.
 */
export function next(cluster: u32, endpoint: u32, share: f32, now: f64): i32 {
  offered = endpoint;
  remote = share;
  stamp = stampOf(now);
  offeredBase = baseOf(endpoint, share, stamp);
  price = chargeOf(cluster) * meanRate;
  const roomy = hasRoom(endpoint, share, stamp);
  const pack = packOf(cluster, now);
  let fits = true;
  let least: u32 = u32.MAX_VALUE;
  const eligibility = load<u32>(cell(ENDPOINT_ELIGIBILITY, endpoint));
  const words = (workers * requestsPerWorker + 31) >> 5;
  let chosen: i32 = -1;
  let band: u32 = u32.MAX_VALUE;
  let virtual: u64 = u64.MAX_VALUE;
  let turn: f64 = Infinity;
  for (let word: u32 = 0; word < words; word++) {
    let bits = atomic.load<u32>(waitingBase + (<usize>word << 2));
    for (; bits != 0; bits &= bits - 1) {
      const row = (word << 5) + ctz<u32>(bits);
      const at = requestAt(row);
      const request = changetype<RequestRow>(at);
      // First: a row that becomes another request's while it is read is not granted.
      const generation = atomic.load<u32>(at, REQUEST_GENERATION);
      if (request.cluster != cluster || request.phase != PHASE_WAITING) continue;
      const mask = request.mask;
      if ((eligibility & mask) != mask || !lists(endpoint, request.adapter)) continue;
      const itsBand = request.band;
      const account = tenantRow(request.tenant);
      const itsVirtual = account.virtual;
      if (itsBand > band || (itsBand == band && itsVirtual > virtual)) {
        least = 0;
        continue;
      }
      const matched = matchedOn(request, endpoint);
      const work = uncachedOf(request.prompt, matched);
      least = min(least, work);
      const ms = <f64>load<f32>(cell(ENDPOINT_RATE, endpoint)) * <f64>work;
      const waited = now - request.queued;
      const late = waited - overdueAfter(account);
      const deadline = request.deadline;
      const left = deadline > 0 ? deadline - now - ms : Infinity;
      const urgent = late > 0 || left < NEAR_MS;
      const itFits = roomy || takes(endpoint, work, pack, share, stamp);
      let itsTurn: f64 = ms / (1 + <f64>header().ageing * waited);
      if (urgent) itsTurn = -1e12 - max(waited, NEAR_MS - left);
      else if (!itFits) itsTurn += UNFIT_MS;
      if (itsBand == band && itsVirtual == virtual && itsTurn >= turn) continue;
      const slack = <f64>header().slack + IMPATIENCE * waited + LATE_SLACK * max<f64>(0, late) +
        max<f64>(0, NEAR_MS - left);
      if (!wants(request, matched, slack, late > 0)) continue;
      if ((atomic.load<u32>(waitingBase + (<usize>word << 2)) & (1 << (row & 31))) == 0) continue;
      chosen = <i32>row;
      nextGeneration = generation;
      band = itsBand;
      virtual = itsVirtual;
      turn = itsTurn;
      fits = itFits;
    }
  }
  leastWork = least;
  return fits ? chosen : -1;
}

// Ms after which a request of this tenant is overdue.
@inline
function overdueAfter(account: TenantRow): f64 {
  const backlog = <f64>account.work / serviceRate(account, fleetRate);
  return <f64>header().overdue * backlog + <f64>header().overdueBase;
}

// What a request waits less on an endpoint that computes it beside others: by what it has to compute, drawn or not.
@inline
function easeOn(request: RequestRow, endpoint: u32, matched: u32): f32 {
  return easeMs(endpoint, uncachedOf(request.prompt, matched), remote, stamp);
}

// Whether the offered endpoint suits a request, of which `matched` bytes are held there: no other would do it sooner by
// more than the slack. To one that is overdue only the prefill counts that it would cost more here than there, no longer
// what is ahead.
function wants(request: RequestRow, matched: u32, slack: f64, overdue: bool): bool {
  const adapter = request.adapter;
  const base: f32 = overdue ? 0 : offeredBase - flightMs(offered) - easeOn(request, offered, matched);
  const maxCost = <f32>(<f64>costOn(request, offered, base, drawnWork(request, matched), price) - slack);
  if (maxCost <= 0) return true;
  const mask = request.mask;
  const matches = request.matches;
  for (let m: u32 = 0; m < matches; m++) {
    const match = requestMatch(request, m);
    const other = match.row;
    if (other == offered || !eligible(other, mask, adapter)) continue;
    const its = drawnWork(request, match.bytes);
    const otherBase: f32 = overdue ? 0 : baseOf(other, remote, stamp) - easeOn(request, other, match.bytes);
    if (costOn(request, other, otherBase, its, price) < maxCost) return false;
  }
  if (overdue) return true;
  for (let i: u32 = 0; i < alternatives; i++) {
    const other = alternative(i).endpoint;
    if (other == offered || !eligible(other, mask, adapter)) continue;
    const held = matchedOn(request, other);
    const otherBase = alternative(i).base - easeOn(request, other, held);
    if (costOn(request, other, otherBase, drawnWork(request, held), price) < maxCost) return false;
  }
  return true;
}

/**
 * A tenant that had nothing waiting asks again. It may be one burst before the others that wait in its band, for what it
 * did not ask for, and one behind them, for what it was served while there was enough for all.
 */
export function rejoin(row: u32, cluster: u32, band: u32): void {
  const at = tenantAt(requestRow(row).tenant);
  const account = changetype<TenantRow>(at);
  if (account.waiting > 0) return;
  let minVirtual: u64 = u64.MAX_VALUE;
  let maxVirtual: u64 = 0;
  const words = (workers * requestsPerWorker + 31) >> 5;
  for (let word: u32 = 0; word < words; word++) {
    for (let bits = atomic.load<u32>(waitingBase + (<usize>word << 2)); bits != 0; bits &= bits - 1) {
      const request = requestRow((word << 5) + ctz<u32>(bits));
      if (request.cluster != cluster || request.band != band) continue;
      const virtual = tenantRow(request.tenant).virtual;
      minVirtual = min(minVirtual, virtual);
      maxVirtual = max(maxVirtual, virtual);
    }
  }
  if (minVirtual > maxVirtual) return; // nobody waits there
  const burst = virtualOf(account, <f64>header().burst);
  const own = account.virtual;
  const first = minVirtual > burst ? minVirtual - burst : 0;
  if (own < first) atomic.store<u64>(at + TENANT_VIRTUAL, first);
  else if (own > maxVirtual + burst) atomic.store<u64>(at + TENANT_VIRTUAL, maxVirtual + burst);
}
