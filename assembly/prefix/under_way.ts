// SPDX-License-Identifier: Apache-2.0
// Blocks of tokens that requests under way compute: they are as good as held where they are. They stand in the prefix index
// under a salt of their own, for as long as their requests run, as any worker may write there.

import { keyBase } from "../memory/plan";
import { ENTRY_HOLDERS, HOLDERS } from "../memory/prefix";
import { ageOf, claim, entryAt, find, hold, keyOf, PIN } from "./index";

const UNDER_WAY: u32 = 0xffffffff;

/** A request computes this block on an endpoint. */
export function computes(key: u64, row: u32, clock: u32): void {
  const slot = claim(keyOf(key, UNDER_WAY), clock);
  if (slot >= 0) hold(<u32>slot, row, clock, PIN, 0);
}

/** It does so no more. */
export function computesNot(key: u64, row: u32): void {
  const its = keyOf(key, UNDER_WAY);
  const slot = find(its);
  if (slot < 0) return;
  const entry = entryAt(<u32>slot);
  let others = false;
  for (let i: u32 = 0; i < HOLDERS; i++) {
    const at = entry + (<usize>i << 3);
    const holder = atomic.load<u64>(at, ENTRY_HOLDERS);
    if (holder == 0) continue;
    if (<u32>holder == row + 1) atomic.store<u64>(at, 0, ENTRY_HOLDERS);
    else others = others || ageOf(<u32>holder - 1, <u32>(holder >> 32)) < 0;
  }
  if (!others) atomic.cmpxchg<u64>(keyBase + (<usize>slot << 3), its, 0);
}

/** Where the endpoints stand that compute a block right now: HOLDERS of u64; 0 when there are none. */
export function computedAt(key: u64): usize {
  const slot = find(keyOf(key, UNDER_WAY));
  return slot < 0 ? 0 : entryAt(<u32>slot) + ENTRY_HOLDERS;
}

/** The endpoint at one of these places; -1 when it does not compute the block any more. */
@inline
export function computingRow(holders: usize, i: u32): i32 {
  const holder = atomic.load<u64>(holders + (<usize>i << 3));
  return holder != 0 && ageOf(<u32>holder - 1, <u32>(holder >> 32)) < 0 ? <i32>holder - 1 : -1;
}

