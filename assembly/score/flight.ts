// SPDX-License-Identifier: Apache-2.0
// What the requests in flight on an endpoint cost the next one, in ms:
//
//   balance · (flight_i − min(flight)) / max(8, mean(flight))
//
// It waits for their tokens with each of its own, and they for its; by as much of a step as they are more than elsewhere.
// flight_i = queue_i · speed_i, and speed_i = rate_i / mean(rate) to the nearest power of two, 1 between 0.6 and 1.7.
// The mean is the harmonic one, ms a byte at the mean speed: an endpoint that crawls does not make the others fast ones.

import {
  GROUP_ROWS,
  ENDPOINT_PENALTY,
  ENDPOINT_RATE,
  ENDPOINT_REMOTE_REQUESTS,
  ENDPOINT_REQUESTS,
} from "../memory/endpoint";
import { header } from "../memory/header";
import { cell, positionGroup, positionQueue, question, scratch } from "../memory/plan";
import { horizontalMin, horizontalSum } from "./gather";

// Requests in flight on an endpoint through any gateway, and its slow start.
@inline
function queueOf(row: u32): f32 {
  const own = load<i32>(cell(ENDPOINT_REQUESTS, row));
  const requests = own + load<i32>(cell(ENDPOINT_REMOTE_REQUESTS, row)) + load<i32>(cell(ENDPOINT_PENALTY, row));
  return <f32>max(0, requests);
}

/** What is left of a float's bits is the power of two below it. */
const EXPONENT: u32 = 0x7f800000;

/** Times √2 too: rates between 0.6 and 1.7 of the mean are alike. */
const ALIKE_FROM: f32 = 0.85;
const ALIKE_TO: f32 = 2.4;

// Of the endpoints looked at last: what makes their rates ratios, times √2 for the nearest power of two to be the one
// below; and their least flight.
let rateScale: f32 = 0;
export let minFlight: f32 = 0;
/** And the mean of it. */
export let meanFlight: f32 = 0;
/** Ms that one more in flight costs. */
export let balanceMs: f32 = 0;

/** Requests in flight on a mean endpoint below which one more is not felt more: a step takes its time for one, too. */
const FEW: f32 = 8;

/** Ms that a prompt byte takes at the mean speed of the endpoints looked at last. */
export let meanRate: f32 = 0;

/** The endpoints to compare: their number, and the sum of their speeds in bytes a ms. */
export function compareRates(endpoints: u32, speeds: f32): void {
  meanRate = speeds > 0 ? <f32>endpoints / speeds : 0;
  rateScale = meanRate > 0 ? <f32>Math.SQRT2 / meanRate : 0;
}

/** After `compareRates`: the least and the mean flight of these endpoints. */
export function compareFlights(least: f32, mean: f32): void {
  minFlight = least;
  meanFlight = mean;
  balanceMs = header().balance / max(FEW, mean);
}

/** flight_i of the formula. */
@inline
export function flightOf(row: u32): f32 {
  const scaled = rateScale * load<f32>(cell(ENDPOINT_RATE, row));
  if (scaled > ALIKE_FROM && scaled < ALIKE_TO) return queueOf(row);
  return queueOf(row) * reinterpret<f32>(reinterpret<u32>(scaled) & EXPONENT);
}

/** The weights of four endpoints' queues in it. */
@inline
export function weightOfFour(rate: v128): v128 {
  const scaled = f32x4.mul(f32x4.splat(rateScale), rate);
  const alike = v128.and(f32x4.gt(scaled, f32x4.splat(ALIKE_FROM)), f32x4.lt(scaled, f32x4.splat(ALIKE_TO)));
  return v128.bitselect(f32x4.splat(1), v128.and(scaled, i32x4.splat(EXPONENT)), alike);
}

/** flight_i of four endpoints. */
@inline
export function flightOfFour(row: u32): v128 {
  const requests = i32x4.add(
    v128.load(cell(ENDPOINT_REQUESTS, row)),
    i32x4.add(v128.load(cell(ENDPOINT_REMOTE_REQUESTS, row)), v128.load(cell(ENDPOINT_PENALTY, row))),
  );
  const queue = f32x4.convert_i32x4_s(i32x4.max_s(requests, i32x4.splat(0)));
  return f32x4.mul(queue, weightOfFour(v128.load(cell(ENDPOINT_RATE, row))));
}

/** What the requests in flight on an endpoint cost: the last term of base_i. */
@inline
export function flightMs(row: u32): f32 {
  return balanceMs * (flightOf(row) - minFlight);
}

/** `compareRates` and `compareFlights` of the gathered candidates. */
export function compareGathered(): void {
  const infinity = f32x4.splat(f32.MAX_VALUE * 2);
  const groups = question().positions / GROUP_ROWS;
  const one = f32x4.splat(1);
  let speeds = f32x4.splat(0);
  for (let ordinal: u32 = 0; ordinal < groups; ordinal++) {
    const first = load<u32>(scratch + positionGroup + (<usize>ordinal << 2)) * GROUP_ROWS;
    for (let lane: u32 = 0; lane < GROUP_ROWS; lane += 4) {
      const q = v128.load(scratch + positionQueue + (<usize>(ordinal * GROUP_ROWS + lane) << 2));
      const speed = f32x4.div(one, v128.load(cell(ENDPOINT_RATE, first + lane)));
      speeds = f32x4.add(speeds, v128.andnot(speed, f32x4.eq(q, infinity)));
    }
  }
  compareRates(question().candidates, horizontalSum(speeds));
  let minimum = infinity;
  let flights = f32x4.splat(0);
  for (let ordinal: u32 = 0; ordinal < groups; ordinal++) {
    const first = load<u32>(scratch + positionGroup + (<usize>ordinal << 2)) * GROUP_ROWS;
    for (let lane: u32 = 0; lane < GROUP_ROWS; lane += 4) {
      const q = v128.load(scratch + positionQueue + (<usize>(ordinal * GROUP_ROWS + lane) << 2));
      const flight = f32x4.mul(q, weightOfFour(v128.load(cell(ENDPOINT_RATE, first + lane))));
      const none = f32x4.eq(q, infinity);
      minimum = f32x4.pmin(minimum, v128.bitselect(infinity, flight, none));
      flights = f32x4.add(flights, v128.andnot(flight, none));
    }
  }
  compareFlights(horizontalMin(minimum), horizontalSum(flights) / max<f32>(1, <f32>question().candidates));
}
