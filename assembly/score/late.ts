// SPDX-License-Identifier: Apache-2.0
// What it costs to send a request to an endpoint now, in milliseconds until its first token:
//
//   left_i = rate_i · ahead_i − since_i
//   ahead_ms_i = max(left_i, rate_i · min(ahead_i, room)) + max(−left_i, 0)   if ahead_i > 0, else 0
//   base_i = ahead_ms_i + balance · (flight_i − min(flight)) / max(8, mean(flight))
//   flight_i = queue_i · speed_i, speed_i = rate_i / mean(rate) to the nearest power of two, 1 between 0.6 and 1.7
//   cost_i = base_i + rate_i · uncached_i + charge · mean(rate) · min(uncached_i, cold) + adapter_i
//
// ahead_i are the uncached prompt bytes sent there and not yet prefilled, those of other gateways by their usual share of
// hits; rate_i is learned; since_i is how long the endpoint is at the prefill that it is at. One that is late, because it
// had forgotten a prefix or hangs, is taken to be late by as much again, and has no room once that is `room`.
//
// `charge` is the price of prefill capacity that a recomputation takes from others, k · busy / (1 − busy) + stall ·
// mean(flight): from those that wait, as in a queue with that share of busy servers, and from those that generate, whose
// next tokens a prefill keeps waiting; a byte costs the fleet the same wherever it is computed. A prompt's first bytes
// that most endpoints have in use anyway are not charged, only what is behind them, its `cold` ones: who has such a
// beginning would draw all that share it. A beginning behind which many prompts part (prefix/partings.ts) draws nobody at
// all: where it is decided where a prompt goes, every endpoint is taken to hold it.
//
// flight_i are the requests in flight as they weigh on that hardware; rates learned of equal engines differ by what they
// happened to compute, so small differences do not count. They are no reason to wait: an endpoint with room is compared
// with the best one without its own term of the requests in flight.

import {
  GROUP_ROWS,
  ENDPOINT_HEAD_AT,
  ENDPOINT_LIMIT,
  ENDPOINT_PARALLEL,
  ENDPOINT_PREFILLS,
  ENDPOINT_RATE,
  ENDPOINT_REMOTE_PROMPT,
  ENDPOINT_REQUESTS,
  ENDPOINT_UNCACHED,
  stampOf,
} from "../memory/endpoint";
import { header } from "../memory/header";
import {
  cell,
  clusterRow,
  positionGroup,
  positionPrompt,
  positionQueue,
  positionScore,
  question,
  questionMatch,
  scratch,
} from "../memory/plan";
import { drawOf, pricedOf, uncachedOf } from "../prefix/known";
import { adapterMs } from "./adapter";
import { balanceMs, compareGathered, flightMs, flightOfFour, meanFlight, meanRate, minFlight, weightOfFour } from "./flight";
import { isGathered, positionOf } from "./gather";
import { packOf } from "./pack";
import { drawAbove } from "./pick";

/** Time over which the busy share is averaged, ms. */
const BUSY_MS: f64 = 10_000;

/** Share of the remote prompt bytes that is prefill work. */
@inline
export function remoteShare(cluster: u32): f32 {
  return 1 - <f32>clusterRow(cluster).hits;
}

/** Uncached prompt bytes ahead of an endpoint. */
@inline
export function aheadOf(row: u32, share: f32): f32 {
  return <f32>load<u32>(cell(ENDPOINT_UNCACHED, row)) + share * <f32>load<u32>(cell(ENDPOINT_REMOTE_PROMPT, row));
}

/** Ms that an endpoint is at the prefill that it is at: 0 when this gateway has none there. Another thread may be ahead. */
@inline
export function sinceOf(row: u32, stamp: u32): f32 {
  if (load<u32>(cell(ENDPOINT_UNCACHED, row)) == 0) return 0;
  return <f32>max<i32>(0, <i32>(stamp - load<u32>(cell(ENDPOINT_HEAD_AT, row)))) / 16;
}

/** The same of four rows. */
@inline
export function sinceOfFour(row: u32, stamp: u32): v128 {
  const passed = i32x4.sub(i32x4.splat(stamp), v128.load(cell(ENDPOINT_HEAD_AT, row)));
  const since = f32x4.mul(f32x4.convert_i32x4_s(i32x4.max_s(passed, i32x4.splat(0))), f32x4.splat(0.0625));
  return v128.andnot(since, i32x4.eq(v128.load(cell(ENDPOINT_UNCACHED, row)), i32x4.splat(0)));
}

/** ahead_ms_i of the formula. */
@inline
function aheadMs(row: u32, share: f32, stamp: u32): f32 {
  const rate = load<f32>(cell(ENDPOINT_RATE, row));
  const ahead = aheadOf(row, share);
  if (ahead <= 0) return 0;
  const left = rate * ahead - sinceOf(row, stamp);
  return max(left, rate * min(ahead, header().room)) + max<f32>(-left, 0);
}

/** Uncached prompt bytes ahead of four endpoints. */
@inline
export function aheadOfFour(row: u32, share: v128): v128 {
  return f32x4.add(
    f32x4.convert_i32x4_u(v128.load(cell(ENDPOINT_UNCACHED, row))),
    f32x4.mul(share, f32x4.convert_i32x4_u(v128.load(cell(ENDPOINT_REMOTE_PROMPT, row)))),
  );
}

/** ahead_ms_i of four endpoints. */
@inline
export function aheadMsOfFour(ahead: v128, rate: v128, since: v128, room: v128): v128 {
  const zero = f32x4.splat(0);
  const left = f32x4.sub(f32x4.mul(rate, ahead), since);
  const ms = f32x4.add(f32x4.pmax(left, f32x4.mul(rate, f32x4.pmin(ahead, room))), f32x4.pmax(f32x4.neg(left), zero));
  return v128.and(ms, f32x4.gt(ahead, zero));
}

/**
 * Whether an endpoint takes a request of so many uncached bytes: it has room, which is less than `room` ahead, or the
 * request is small enough for what is ahead with its own to be no more than `pack`, or to be computed beside it; and it is
 * not late by as much as `room`. Gateways that look only at all that is ahead would keep each other out: who has something
 * there sees first that it is over. So each may have one request there, up to a larger bound, and more only while its own
 * are few.
 */
@inline
export function takes(row: u32, work: u32, pack: f32, share: f32, stamp: u32): bool {
  if (load<i32>(cell(ENDPOINT_REQUESTS, row)) >= load<i32>(cell(ENDPOINT_LIMIT, row))) return false;
  const ahead = aheadOf(row, share);
  const own = load<u32>(cell(ENDPOINT_UNCACHED, row));
  if (own == 0) return ahead < header().roomShared;
  if (ahead > <f32>own && <f32>own >= header().roomOwn) return false;
  const rate = load<f32>(cell(ENDPOINT_RATE, row));
  const late = sinceOf(row, stamp) - rate * ahead;
  const fits = ahead < header().room || ahead + <f32>work <= pack || (pack >= 0 && besideOf(row, work));
  return fits && late < rate * header().room;
}

// Whether an engine that computes several prompts at once takes a short one beside those that it is at.
@inline
function besideOf(row: u32, work: u32): bool {
  if (header().parallel == 0 || <f32>work > header().room) return false;
  return load<u32>(cell(ENDPOINT_PREFILLS, row)) < load<u32>(cell(ENDPOINT_PARALLEL, row));
}

/** Ms that a request of so many uncached bytes waits less there than base_i says: it is computed beside what is ahead. */
export function easeMs(row: u32, work: u32, share: f32, stamp: u32): f32 {
  if (!besideOf(row, work)) return 0;
  const beside = load<f32>(cell(ENDPOINT_RATE, row)) * <f32>(work * load<u32>(cell(ENDPOINT_PREFILLS, row)));
  return max<f32>(0, aheadMs(row, share, stamp) - beside);
}

/** Whether it takes any request. */
@inline
export function hasRoom(row: u32, share: f32, stamp: u32): bool {
  return takes(row, 0, -1, share, stamp);
}

/** base_i of the formula. */
@inline
export function baseOf(row: u32, share: f32, stamp: u32): f32 {
  return aheadMs(row, share, stamp) + flightMs(row);
}

/** base_i of four endpoints. */
@inline
export function baseOfFour(row: u32, share: v128, stamp: u32, room: v128): v128 {
  const rate = v128.load(cell(ENDPOINT_RATE, row));
  const ahead = aheadMsOfFour(aheadOfFour(row, share), rate, sinceOfFour(row, stamp), room);
  const more = f32x4.sub(flightOfFour(row), f32x4.splat(minFlight));
  return f32x4.add(ahead, f32x4.mul(f32x4.splat(balanceMs), more));
}

/** Takes the share of busy endpoints into its moving mean. */
export function observeBusy(cluster: u32, busy: f64, now: f64): void {
  const row = clusterRow(cluster);
  const passed = now - row.busyAt;
  if (passed > 0) {
    const mean = row.busy;
    const weight = passed / (passed + BUSY_MS);
    row.busy = mean + weight * (row.busyNow - mean);
    row.busyAt = now;
  }
  row.busyNow = busy;
}

/** The price of prefill capacity, when the flights of the endpoints have been compared. */
export function chargeOf(cluster: u32): f32 {
  const busy = <f32>clusterRow(cluster).busy;
  const waits = header().charge * busy / max<f32>(1e-6, 1 - busy);
  return min(header().maxCharge, waits + header().stall * meanFlight);
}

/**
 * Scores the gathered candidates by -cost, and beside it, where the prompt loads were, those that take the request now; the others
 * are -Inf there. Returns how many of the candidates are busy.
 */
export function scoreLate(): u32 {
  const cluster = question().cluster;
  const promptBytes = question().promptBytes;
  const stamp = stampOf(question().now);
  const queues = scratch + positionQueue;
  const scores = scratch + positionScore;
  const roomy = scratch + positionPrompt;
  const infinity = f32x4.splat(f32.MAX_VALUE * 2);
  const nothing = f32x4.splat(-f32.MAX_VALUE * 2);
  const remote = remoteShare(cluster);
  const share = f32x4.splat(remote);
  const room = f32x4.splat(header().room);
  const sharedRoom = f32x4.splat(header().roomShared);
  const ownRoom = f32x4.splat(header().roomOwn);
  const most = packOf(cluster, question().now);
  const pack = f32x4.splat(most);
  compareGathered();
  const balance = f32x4.splat(balanceMs);
  const minimum = f32x4.splat(minFlight);
  const everywhere = question().everywhere;
  const unmatched = uncachedOf(promptBytes, everywhere);
  const work = f32x4.splat(<f32>unmatched);
  const unmatchedIsShort = header().parallel != 0 && <f32>unmatched <= header().room;
  const shared = question().shared;
  const drawn = uncachedOf(promptBytes, drawOf(everywhere, shared));
  const drawnWork = f32x4.splat(<f32>drawn);
  const price = chargeOf(cluster) * meanRate;
  const hot = question().hot;
  const priced = price * <f32>pricedOf(drawn, promptBytes, hot);
  const zero = f32x4.splat(0);
  const groups = question().positions / GROUP_ROWS;
  let busy: u32 = 0;
  for (let ordinal: u32 = 0; ordinal < groups; ordinal++) {
    const first = load<u32>(scratch + positionGroup + (<usize>ordinal << 2)) * GROUP_ROWS;
    for (let lane: u32 = 0; lane < GROUP_ROWS; lane += 4) {
      const at = <usize>(ordinal * GROUP_ROWS + lane) << 2;
      const row = first + lane;
      const q = v128.load(queues + at);
      const ahead = aheadOfFour(row, share);
      const rate = v128.load(cell(ENDPOINT_RATE, row));
      const flight = f32x4.mul(q, weightOfFour(rate));
      const more = f32x4.sub(flight, minimum);
      const since = sinceOfFour(row, stamp);
      let cost = f32x4.add(aheadMsOfFour(ahead, rate, since, room), f32x4.mul(rate, drawnWork));
      cost = f32x4.add(cost, f32x4.add(f32x4.splat(priced), f32x4.mul(balance, more)));
      if (header().parallel != 0) cost = f32x4.sub(cost, easeOfFour(row, unmatched, remote, stamp));
      const none = f32x4.eq(q, infinity);
      const score = v128.bitselect(nothing, f32x4.neg(cost), none);
      v128.store(scores + at, score);
      const late = f32x4.sub(since, f32x4.mul(rate, ahead));
      const own = f32x4.convert_i32x4_u(v128.load(cell(ENDPOINT_UNCACHED, row)));
      const few = v128.or(f32x4.le(ahead, own), f32x4.lt(own, ownRoom));
      let fits = v128.or(f32x4.lt(ahead, room), f32x4.le(f32x4.add(ahead, work), pack));
      if (unmatchedIsShort) fits = v128.or(fits, placesOfFour(row));
      const another = v128.and(v128.and(fits, f32x4.lt(late, f32x4.mul(rate, room))), few);
      const roomLeft = v128.and(
        v128.bitselect(f32x4.lt(ahead, sharedRoom), another, f32x4.eq(own, zero)),
        i32x4.lt_s(v128.load(cell(ENDPOINT_REQUESTS, row)), v128.load(cell(ENDPOINT_LIMIT, row))),
      );
      v128.store(roomy + at, v128.bitselect(score, nothing, roomLeft));
      busy += popcnt<u32>(i32x4.bitmask(v128.andnot(f32x4.gt(ahead, zero), none)));
    }
  }
  const matches = question().matches;
  for (let m: u32 = 0; m < matches; m++) {
    const match = questionMatch(m);
    const row = match.row;
    if (!isGathered(row)) continue;
    const left = uncachedOf(promptBytes, drawOf(match.bytes, shared));
    const saved = <f32>drawn - <f32>left;
    const notCharged = priced - price * <f32>pricedOf(left, promptBytes, hot);
    const at = <usize>positionOf(row) << 2;
    // What does not fit whole may fit without what is cached.
    const itsWork = uncachedOf(promptBytes, match.bytes);
    if (takes(row, itsWork, most, remote, stamp)) store<f32>(roomy + at, load<f32>(scores + at));
    const eased = easeMs(row, itsWork, remote, stamp) - easeMs(row, unmatched, remote, stamp);
    add(at, load<f32>(cell(ENDPOINT_RATE, row)) * saved + notCharged + eased);
  }
  if (question().adapter != 0) addAdapter(question().adapter);
  return busy;
}

// easeMs of four rows.
function easeOfFour(row: u32, work: u32, share: f32, stamp: u32): v128 {
  let four = f32x4.splat(0);
  four = f32x4.replace_lane(four, 0, easeMs(row, work, share, stamp));
  four = f32x4.replace_lane(four, 1, easeMs(row + 1, work, share, stamp));
  four = f32x4.replace_lane(four, 2, easeMs(row + 2, work, share, stamp));
  return f32x4.replace_lane(four, 3, easeMs(row + 3, work, share, stamp));
}

// Which of four rows compute less prompts than their engines can at once.
@inline
function placesOfFour(row: u32): v128 {
  return i32x4.lt_s(v128.load(cell(ENDPOINT_PREFILLS, row)), v128.load(cell(ENDPOINT_PARALLEL, row)));
}

// Adds to both scores of a position; what is -Inf stays so.
@inline
function add(at: usize, ms: f32): void {
  store<f32>(scratch + positionScore + at, load<f32>(scratch + positionScore + at) + ms);
  store<f32>(scratch + positionPrompt + at, load<f32>(scratch + positionPrompt + at) + ms);
}

function addAdapter(adapter: u32): void {
  const groups = question().positions / GROUP_ROWS;
  for (let ordinal: u32 = 0; ordinal < groups; ordinal++) {
    const first = load<u32>(scratch + positionGroup + (<usize>ordinal << 2)) * GROUP_ROWS;
    for (let lane: u32 = 0; lane < GROUP_ROWS; lane++) {
      add(<usize>(ordinal * GROUP_ROWS + lane) << 2, -adapterMs(first + lane, adapter));
    }
  }
}

/**
 * One of the positions whose score is at most the tie below `best`, drawn at random: several gateways that see the same
 * figures do not all choose the same endpoint.
 */
export function drawNear(scores: usize, best: f32): u32 {
  return drawAbove(scores, best - header().tie);
}
