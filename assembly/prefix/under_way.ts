// SPDX-License-Identifier: Apache-2.0
// Blocks of tokens that requests under way compute: they are as good as held where they are. They stand in the prefix index
// under a salt of their own, as any worker may write there; a holder's upper word is by how many requests, and since when.
// Marks of a worker that died end by their age.

import { keyBase, question } from "../memory/plan";
import { ENTRY_HOLDERS, HOLDERS } from "../memory/prefix";
import { claim, entryAt, find, keyOf } from "./index";

const SALT: u32 = 0xffffffff;
/** Requests that are counted, in the low bits. */
const COUNT_BITS: u32 = 8;
const MOST: u32 = (1 << COUNT_BITS) - 1;
/** Ticks of 256 ms, modulo 2^24, that a mark is good for: two minutes. */
const GOOD: u32 = 469;

@inline
function tick(now: f64): u32 {
  return <u32>(<i64>now >> 8) << COUNT_BITS;
}

// A mark that another thread has made a little later is good, too.
@inline
function good(mark: u32, now: u32): bool {
  const age = <i32>((now & ~MOST) - (mark & ~MOST)) >> COUNT_BITS;
  return (mark & MOST) != 0 && age <= <i32>GOOD;
}

/** A request computes this block on an endpoint. */
export function computes(key: u64, row: u32, clock: u32): void {
  const slot = claim(keyOf(key, SALT), clock);
  if (slot < 0) return;
  const entry = entryAt(<u32>slot);
  const now = tick(question().now);
  let place: i32 = -1;
  for (let i: u32 = 0; i < HOLDERS; i++) {
    const at = entry + (<usize>i << 3);
    const holder = atomic.load<u64>(at, ENTRY_HOLDERS);
    const mark = <u32>(holder >> 32);
    if (<u32>holder == row + 1) {
      const users = good(mark, now) ? min(MOST, (mark & MOST) + 1) : 1;
      atomic.store<u64>(at, (<u64>(now | users) << 32) | (row + 1), ENTRY_HOLDERS);
      return;
    }
    if (place < 0 && !good(mark, now)) place = <i32>i;
  }
  if (place >= 0) {
    atomic.store<u64>(entry + (<usize>place << 3), (<u64>(now | 1) << 32) | (row + 1), ENTRY_HOLDERS);
  }
}

/** It does so no more. */
export function computesNot(key: u64, row: u32): void {
  const its = keyOf(key, SALT);
  const slot = find(its);
  if (slot < 0) return;
  const entry = entryAt(<u32>slot);
  const now = tick(question().now);
  let others = false;
  for (let i: u32 = 0; i < HOLDERS; i++) {
    const at = entry + (<usize>i << 3);
    const holder = atomic.load<u64>(at, ENTRY_HOLDERS);
    const mark = <u32>(holder >> 32);
    if (<u32>holder == row + 1) {
      const users = max<u32>(1, mark & MOST) - 1;
      atomic.store<u64>(at, users == 0 ? 0 : (<u64>((mark & ~MOST) | users) << 32) | (row + 1), ENTRY_HOLDERS);
      others = others || users > 0;
    } else if (holder != 0) others = others || good(mark, now);
  }
  if (!others) atomic.cmpxchg<u64>(keyBase + (<usize>slot << 3), its, 0);
}

/** Where the endpoints stand that compute a block right now: HOLDERS of u64; 0 when there are none. */
export function computedAt(key: u64): usize {
  const slot = find(keyOf(key, SALT));
  return slot < 0 ? 0 : entryAt(<u32>slot) + ENTRY_HOLDERS;
}

/** The endpoint at one of these places; -1 when it does not compute the block any more. */
@inline
export function computingRow(holders: usize, i: u32): i32 {
  const holder = atomic.load<u64>(holders + (<usize>i << 3));
  return good(<u32>(holder >> 32), tick(question().now)) ? <i32>holder - 1 : -1;
}
