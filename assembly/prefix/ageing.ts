// SPDX-License-Identifier: Apache-2.0
// Which of the chunks that it held an engine has given up. It gives up those out of use, the ones that came out of use
// longest ago first, when those in use need their room.
//
// An endpoint numbers the chunks that come out of use; that number is a holder's stamp. Of every epoch of numbers it counts
// how many are still out of use and there: one less when one is taken into use again. When there are more than its cache
// has beside what is in use, the oldest epochs are given up whole, and all stamps before the frontier are dead. So it ages
// by what is really in front of a chunk, however often others come and go. An epoch is a 32nd to a 64th of the cache; of
// the last 512 each has a count of its own, those before them have one together, that of the first.
//
// While requests run, their chunks are pinned: a stamp is then 16 caches ahead, and has the number of them below.

import {
  ENDPOINT_CAPACITY,
  ENDPOINT_FINDABLE,
  ENDPOINT_FRONTIER,
  ENDPOINT_IDLE,
  ENDPOINT_INSERTED,
} from "../memory/endpoint";
import { EPOCHS } from "../memory/prefix";
import { cell, epochBase } from "../memory/plan";

const MAX_SHIFT: u32 = 15;

// Numbers in an epoch, as a power of two.
@inline
function shiftOf(row: u32): u32 {
  const part = load<u32>(cell(ENDPOINT_CAPACITY, row)) >> 5;
  return part < 2 ? 0 : min(MAX_SHIFT, 31 - clz<u32>(part));
}

// Address of the count of an epoch.
@inline
function countAt(row: u32, epoch: u32): usize {
  return epochBase + ((<usize>row * EPOCHS + (epoch & (EPOCHS - 1))) << 2);
}

// The epoch with which one is counted, at the time of another.
@inline
function countedWith(epoch: u32, now: u32, shift: u32): u32 {
  const passed = <i32>((now - epoch) << shift) >> shift;
  return passed >= <i32>EPOCHS ? now - (EPOCHS - 1) : epoch;
}

// How far a pin is ahead.
@inline
function aheadOfAll(row: u32): u32 {
  return load<u32>(cell(ENDPOINT_CAPACITY, row)) << 4;
}

/** Most requests that a pin counts. */
const MOST_USERS: u32 = 63;

/** The stamp of a chunk that so many requests have in use from now on. */
@inline
export function pinStamp(row: u32, users: u32): u32 {
  const base = load<u32>(cell(ENDPOINT_INSERTED, row)) + aheadOfAll(row) + 2 * MOST_USERS;
  return (base & ~MOST_USERS) | min(MOST_USERS, users);
}

/** Requests that have a pinned chunk in use. */
@inline
export function usersOf(stamp: u32): u32 {
  return stamp & MOST_USERS;
}

/** Whether an endpoint has forgotten all that it held since a time at which the number was `pinned`. */
@inline
export function forgotSince(row: u32, pinned: u32): bool {
  return load<u32>(cell(ENDPOINT_INSERTED, row)) - pinned > 2 * aheadOfAll(row);
}

/** Numbers since this stamp; below 0 while the chunk is in use. */
@inline
export function ageOf(row: u32, stamp: u32): i32 {
  return <i32>(load<u32>(cell(ENDPOINT_INSERTED, row)) - stamp);
}

/** Whether a chunk with this stamp is there. */
@inline
export function isThere(row: u32, stamp: u32): bool {
  if (ageOf(row, stamp) < 0) return true;
  const shift = shiftOf(row);
  return <i32>(((stamp >> shift) - load<u32>(cell(ENDPOINT_FRONTIER, row))) << shift) >= 0;
}

/** A chunk comes out of use. Returns its stamp. */
export function release(row: u32): u32 {
  const stamp = atomic.add<u32>(cell(ENDPOINT_INSERTED, row), 1) + 1;
  const shift = shiftOf(row);
  const epoch = stamp >> shift;
  // The first of an epoch makes room for it: what is counted there goes to the next one, now the first of all.
  if ((stamp & ((1 << shift) - 1)) == 0) {
    const count = atomic.xchg<u32>(countAt(row, epoch), 0);
    if (count > 0) atomic.add<u32>(countAt(row, epoch + 1), count);
  }
  atomic.add<u32>(countAt(row, epoch), 1);
  atomic.add<u32>(cell(ENDPOINT_FINDABLE, row), 1);
  return stamp;
}

/** The stamp of one that comes out of use and is not counted. */
@inline
export function stampNow(row: u32): u32 {
  return load<u32>(cell(ENDPOINT_INSERTED, row));
}

/** One that is there and out of use is taken into use again. */
export function takeBack(row: u32, stamp: u32): void {
  const shift = shiftOf(row);
  const now = load<u32>(cell(ENDPOINT_INSERTED, row)) >> shift;
  const at = countAt(row, countedWith(stamp >> shift, now, shift));
  if (atomic.load<u32>(at) == 0) return;
  atomic.sub<u32>(at, 1);
  atomic.sub<u32>(cell(ENDPOINT_FINDABLE, row), 1);
}

/** Gives up what an endpoint's cache has no room for beside what is in use, as it was just told. */
export function indexEvict(row: u32): void {
  evictTo(row, load<i32>(cell(ENDPOINT_IDLE, row)));
}

/** Gives up what an endpoint's cache could not hold if nothing were in use: what is was told a while ago. */
export function evictBeyondAll(row: u32): void {
  evictTo(row, load<i32>(cell(ENDPOINT_CAPACITY, row)));
}

function evictTo(row: u32, idle: i32): void {
  const shift = shiftOf(row);
  const now = load<u32>(cell(ENDPOINT_INSERTED, row)) >> shift;
  const at = cell(ENDPOINT_FRONTIER, row);
  for (let i: u32 = 0; i < EPOCHS; i++) {
    const over = atomic.load<i32>(cell(ENDPOINT_FINDABLE, row)) - idle;
    const frontier = atomic.load<u32>(at);
    const oldest = countedWith(frontier, now, shift);
    // An epoch of which more than half fit, and the one that is under way, stays whole.
    if (over <= 0 || <i32>((now - oldest) << shift) <= 0) return;
    if (atomic.load<i32>(countAt(row, oldest)) > 2 * over) return;
    if (atomic.cmpxchg<u32>(at, frontier, (oldest + 1) & (u32.MAX_VALUE >> shift)) != frontier) return;
    atomic.sub<u32>(cell(ENDPOINT_FINDABLE, row), atomic.xchg<u32>(countAt(row, oldest), 0));
  }
}

/** Forgets what an endpoint held, pinned or not: it restarted, or its row changed hands. */
export function indexForget(row: u32): void {
  const shift = shiftOf(row);
  const inserted = cell(ENDPOINT_INSERTED, row);
  // Beyond every pin, in an epoch of which there is no stamp yet.
  const last = (atomic.load<u32>(inserted) + 2 * aheadOfAll(row) + 2 * MOST_USERS + (1 << shift)) | ((1 << shift) - 1);
  atomic.store<u32>(inserted, last);
  atomic.store<u32>(cell(ENDPOINT_FRONTIER, row), last >> shift);
  atomic.store<u32>(cell(ENDPOINT_FINDABLE, row), 0);
  memory.fill(countAt(row, 0), 0, EPOCHS << 2);
}
