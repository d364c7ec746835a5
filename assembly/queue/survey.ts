// SPDX-License-Identifier: Apache-2.0
// One look at all endpoints of a cluster before a grant, four at a time: their speeds, the requests in flight, and the
// cheapest of them, which are the alternatives of requests that nobody holds.

import { GROUP_ROWS, ENDPOINT_ELIGIBILITY, ENDPOINT_RATE, stampOf } from "../memory/endpoint";
import { header } from "../memory/header";
import { cell, firstGroupOf, groupAfter, histogram, scratch } from "../memory/plan";
import { compareFlights, compareRates, flightOfFour } from "../score/flight";
import { horizontalMin, horizontalSum } from "../score/gather";
import { aheadOfFour, baseOf, baseOfFour, observeBusy } from "../score/late";

/** Endpoints that are kept at hand as the alternatives of requests that nobody holds. */
const ALTERNATIVES: u32 = 4;

@unmanaged
export class Alternative {
  endpoint: u32; // row
  base: f32; // base_i of late.ts
}

/** The alternatives, the cheapest first, where a pick has its histogram. */
@inline
export function alternative(i: u32): Alternative {
  return changetype<Alternative>(scratch + histogram + (<usize>i << 3));
}

/** How many there are. */
export let alternatives: u32 = 0;
/** Prompt bytes that all endpoints together prefill in a ms. */
export let fleetRate: f64 = 0;

/** Looks at all endpoints of a cluster that are `wanted`. */
export function survey(cluster: u32, wanted: u32, share: f32, now: f64): void {
  surveySpeeds(cluster, wanted, share, now);
  surveyFlights(cluster, wanted);
  surveyBases(cluster, wanted, share, stampOf(now));
}

// Which of four rows are eligible.
@inline
function wantedOfFour(row: u32, wanted: v128): v128 {
  return i32x4.eq(v128.and(v128.load(cell(ENDPOINT_ELIGIBILITY, row)), wanted), wanted);
}

let serving: u32 = 0;

function surveySpeeds(cluster: u32, wanted: u32, share: f32, now: f64): void {
  const mask = i32x4.splat(wanted);
  const shares = f32x4.splat(share);
  const zero = f32x4.splat(0);
  let speeds = zero;
  let busy: u32 = 0;
  serving = 0;
  let group = firstGroupOf(cluster);
  while (group != 0) {
    group--;
    for (let row = group * GROUP_ROWS; row < (group + 1) * GROUP_ROWS; row += 4) {
      const fits = wantedOfFour(row, mask);
      if (!v128.any_true(fits)) continue;
      const rate = f32x4.pmax(v128.load(cell(ENDPOINT_RATE, row)), f32x4.splat(1e-9));
      speeds = f32x4.add(speeds, v128.and(f32x4.div(f32x4.splat(1), rate), fits));
      serving += popcnt<u32>(i32x4.bitmask(fits));
      busy += popcnt<u32>(i32x4.bitmask(v128.and(fits, f32x4.gt(aheadOfFour(row, shares), zero))));
    }
    group = groupAfter(group);
  }
  fleetRate = <f64>horizontalSum(speeds);
  compareRates(serving, <f32>fleetRate);
  if (serving > 0) observeBusy(cluster, <f64>busy / <f64>serving, now);
}

function surveyFlights(cluster: u32, wanted: u32): void {
  const mask = i32x4.splat(wanted);
  const infinity = f32x4.splat(f32.MAX_VALUE);
  let least = infinity;
  let flights = f32x4.splat(0);
  let group = firstGroupOf(cluster);
  while (group != 0) {
    group--;
    for (let row = group * GROUP_ROWS; row < (group + 1) * GROUP_ROWS; row += 4) {
      const fits = wantedOfFour(row, mask);
      const flight = flightOfFour(row);
      least = f32x4.pmin(least, v128.bitselect(flight, infinity, fits));
      flights = f32x4.add(flights, v128.and(flight, fits));
    }
    group = groupAfter(group);
  }
  compareFlights(horizontalMin(least), horizontalSum(flights) / <f32>max<u32>(1, serving));
}

function surveyBases(cluster: u32, wanted: u32, share: f32, stamp: u32): void {
  const mask = i32x4.splat(wanted);
  const shares = f32x4.splat(share);
  const room = f32x4.splat(header().room);
  alternatives = 0;
  let group = firstGroupOf(cluster);
  while (group != 0) {
    group--;
    for (let row = group * GROUP_ROWS; row < (group + 1) * GROUP_ROWS; row += 4) {
      const fits = wantedOfFour(row, mask);
      const bases = baseOfFour(row, shares, stamp, room);
      const worst = alternatives == ALTERNATIVES ? alternative(ALTERNATIVES - 1).base : f32.MAX_VALUE;
      let cheap = i32x4.bitmask(v128.and(fits, f32x4.lt(bases, f32x4.splat(worst))));
      for (; cheap != 0; cheap &= cheap - 1) {
        const cheaper = row + ctz<u32>(cheap);
        keepCheapest(cheaper, baseOf(cheaper, share, stamp));
      }
    }
    group = groupAfter(group);
  }
}

function keepCheapest(row: u32, base: f32): void {
  let i = alternatives;
  if (i == ALTERNATIVES) {
    if (base >= alternative(i - 1).base) return;
    i--;
  } else alternatives++;
  for (; i > 0 && alternative(i - 1).base > base; i--) {
    store<u64>(changetype<usize>(alternative(i)), load<u64>(changetype<usize>(alternative(i - 1))));
  }
  alternative(i).endpoint = row;
  alternative(i).base = base;
}

/** An endpoint was granted a request: what it costs as an alternative. */
export function rebase(endpoint: u32, share: f32, now: f64): void {
  const base = baseOf(endpoint, share, stampOf(now));
  for (let i: u32 = 0; i < alternatives; i++) {
    if (alternative(i).endpoint == endpoint) alternative(i).base = base;
  }
}
