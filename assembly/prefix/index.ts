// SPDX-License-Identifier: Apache-2.0
// Which endpoints are presumed to hold which prompt prefix. A set-associative table: the key picks a bucket of 8 slots,
// a slot has up to 7 holders. Bounded: a full bucket gives up its least recently touched slot.
//
// Ageing: an engine gives up the chunks first that were in use longest ago, and those in use never. An endpoint counts the
// chunks that come out of use; a holder is stamped with that count when it does, and is presumed to hold the chunk while
// count - stamp <= idle, the chunks that its cache holds beside those in use. While a request runs, its chunks are pinned:
// stamped a whole capacity ahead. A chunk that comes into use again is no longer before those that are older. A chunk with
// more live holders than places overflows: it is held everywhere and says nothing about where to go, until one of its
// holders ages out.
//
// Any worker writes at any time. Keys are published by compare-and-swap, holders are single 64-bit words; a lost update
// is a lost hint, and a reader that meets a slot while it changes hands sees a hint that may be wrong, never a fault.

import { ENDPOINT_CAPACITY, ENDPOINT_IDLE, ENDPOINT_INSERTED, ENDPOINT_TOUCHED } from "../memory/endpoint";
import { HEADER_CLOCK } from "../memory/header";
import { buckets, cell, entryBase, hashes, keyBase, question, scratch } from "../memory/plan";
import { BUCKET_SLOTS, CHUNK_BYTES, ENTRY_BYTES, ENTRY_HOLDERS, HOLDERS, matchAt, PrefixEntry } from "../memory/prefix";
import { QUESTION_MATCH } from "../memory/question";

const INSERT: u32 = 0;
const PIN: u32 = 1;
const UNPIN: u32 = 2;

// A salt per cluster and model keeps equal prompts of different models apart; 0 marks an empty slot.
@inline
function keyOf(hash: u64, salt: u32): u64 {
  let k = hash ^ (<u64>salt * 0x9e3779b97f4a7c15);
  k ^= k >> 32;
  k *= 0xd6e8feb86659fd93;
  k ^= k >> 32;
  return k == 0 ? 1 : k;
}

@inline
function bucketOf(key: u64): u32 {
  return <u32>(key >> 16) & (buckets - 1);
}

function find(key: u64): i32 {
  const first = bucketOf(key) * BUCKET_SLOTS;
  const at = keyBase + (<usize>first << 3);
  for (let i: u32 = 0; i < BUCKET_SLOTS; i++) {
    if (load<u64>(at + (<usize>i << 3)) == key) return <i32>(first + i);
  }
  return -1;
}

@inline
function alive(holder: u64): bool {
  const row = <u32>holder - 1;
  return ageOf(row, <u32>(holder >> 32)) <= load<i32>(cell(ENDPOINT_IDLE, row));
}

// Below 0 while it is pinned.
@inline
function ageOf(row: u32, stamp: u32): i32 {
  return <i32>(load<u32>(cell(ENDPOINT_INSERTED, row)) - stamp);
}

@inline
function entryAt(slot: u32): usize {
  return entryBase + <usize>slot * ENTRY_BYTES;
}

/** Finds the key's slot or takes one: an empty one, else the one touched longest ago. -1 when another worker was faster. */
function claim(key: u64, clock: u32): i32 {
  const found = find(key);
  if (found >= 0) return found;
  const first = bucketOf(key) * BUCKET_SLOTS;
  let victim: u32 = first;
  let oldest: u32 = 0;
  for (let i: u32 = 0; i < BUCKET_SLOTS; i++) {
    const slot = first + i;
    if (load<u64>(keyBase + (<usize>slot << 3)) == 0) {
      victim = slot;
      break;
    }
    const age = clock - changetype<PrefixEntry>(entryAt(slot)).touched;
    if (age >= oldest) {
      oldest = age;
      victim = slot;
    }
  }
  const at = keyBase + (<usize>victim << 3);
  const before = load<u64>(at);
  // Nobody finds the slot by either key while its holders are wiped; whoever loses this race gives up its hint.
  if (atomic.cmpxchg<u64>(at, before, 0) != before) return -1;
  const entry = entryAt(victim);
  const fields = changetype<PrefixEntry>(entry);
  fields.overflow = 0;
  fields.touched = clock;
  for (let i: u32 = 0; i < HOLDERS; i++) atomic.store<u64>(entry + (<usize>i << 3), 0, ENTRY_HOLDERS);
  return atomic.cmpxchg<u64>(at, 0, key) == 0 ? <i32>victim : -1;
}

// An idle chunk is in use again: it is no longer before the older ones, to the newer ones nothing happened. For a chunk of
// any age the count goes back by the share of idle that is older than this one, whole chunks at a time.
function taken(row: u32, stamp: u32): void {
  const age = ageOf(row, stamp);
  if (age < 0) return; // in use already
  const whole = load<u32>(cell(ENDPOINT_IDLE, row)) + 1;
  const older = whole - min(whole, <u32>age);
  const before = atomic.add<u32>(cell(ENDPOINT_TOUCHED, row), older) % whole;
  if (before + older >= whole) atomic.sub<u32>(cell(ENDPOINT_INSERTED, row), 1);
}

// Records that an endpoint holds the chunk of this slot: inserted by others now, pinned, or out of use with the count.
// `pinned` is the count when the request that ends was pinned.
function hold(slot: u32, row: u32, clock: u32, how: u32, pinned: u32): void {
  const entry = entryAt(slot);
  const fields = changetype<PrefixEntry>(entry);
  fields.touched = clock;
  let place: i32 = -1;
  let dead = false;
  let stalest: u32 = 0;
  let stalestAge: i32 = i32.MIN_VALUE;
  for (let i: u32 = 0; i < HOLDERS; i++) {
    const holder = atomic.load<u64>(entry + (<usize>i << 3), ENTRY_HOLDERS);
    if (holder == 0) {
      if (place < 0) place = <i32>i;
      continue;
    }
    const lives = alive(holder);
    if (<u32>holder == row + 1) {
      const stamp = <u32>(holder >> 32);
      if (how == UNPIN) {
        // Another request took it later, and has it in use.
        if (<i32>(stamp - load<u32>(cell(ENDPOINT_CAPACITY, row)) - pinned) > 0) return;
      } else if (lives) taken(row, stamp);
      if (!lives) fields.overflow = 0;
      const comesOut = how == UNPIN ? ageOf(row, stamp) < 0 : true;
      atomic.store<u64>(entry + (<usize>i << 3), (<u64>stampFor(row, how, comesOut) << 32) | (row + 1), ENTRY_HOLDERS);
      return;
    }
    if (!lives) {
      if (place < 0) place = <i32>i;
      dead = true;
    } else {
      const age = ageOf(<u32>holder - 1, <u32>(holder >> 32));
      if (age >= stalestAge) {
        stalestAge = age;
        stalest = i;
      }
    }
  }
  if (dead) fields.overflow = 0;
  if (place < 0) {
    place = <i32>stalest;
    fields.overflow = 1;
  }
  atomic.store<u64>(entry + (<usize>place << 3), (<u64>stampFor(row, how, true) << 32) | (row + 1), ENTRY_HOLDERS);
}

// The count goes on by one for a chunk that comes out of use.
@inline
function stampFor(row: u32, how: u32, comesOut: bool): u32 {
  const inserted = cell(ENDPOINT_INSERTED, row);
  if (how == PIN) return load<u32>(inserted) + load<u32>(cell(ENDPOINT_CAPACITY, row));
  return comesOut ? atomic.add<u32>(inserted, 1) + 1 : load<u32>(inserted);
}

/** A request with the prompt in scratch is sent to `row`: its chunks are in use there. Returns what `indexUnpinScratch` takes. */
export function indexPinScratch(count: u32, salt: u32, row: u32): u32 {
  const pinned = load<u32>(cell(ENDPOINT_INSERTED, row));
  holdAll(count, salt, row, PIN, pinned);
  return pinned;
}

/** That request is over: its chunks are the newest out of use. */
export function indexUnpinScratch(count: u32, pinned: u32, salt: u32, row: u32): void {
  holdAll(count, salt, row, UNPIN, pinned);
}

function holdAll(count: u32, salt: u32, row: u32, how: u32, pinned: u32): void {
  const clock = atomic.add<u32>(HEADER_CLOCK * 4, 1) + 1;
  for (let i = <i32>count - 1; i >= 0; i--) {
    const slot = claim(keyOf(load<u64>(scratch + hashes + (<usize>i << 3)), salt), clock);
    if (slot >= 0) hold(<u32>slot, row, clock, how, pinned);
  }
}

/**
 * Records that endpoint `row` holds the first `count` hashes in scratch. Tail first: engines evict the end of a prefix
 * before its beginning, so the beginning gets the youngest stamp.
 */
export function indexInsertScratch(count: u32, salt: u32, row: u32): void {
  holdAll(count, salt, row, INSERT, 0);
}

/**
 * Looks the first `count` scratch hashes up. Writes the decision's EVERYWHERE (leading bytes held everywhere), MATCHES
 * and MATCH pairs (row, bytes): the rows that hold a longer unbroken prefix than that, at most 7. After the first chunk
 * that is not everywhere the set of rows only shrinks, so the cost is O(chunks), whatever the fleet's size.
 */
export function indexLookup(count: u32, salt: u32): void {
  const matches = scratch + QUESTION_MATCH;
  let everywhere: u32 = 0;
  let total: u32 = 0;
  let i: u32 = 0;
  for (; i < count; i++) {
    const slot = find(keyOf(load<u64>(scratch + hashes + (<usize>i << 3)), salt));
    if (slot < 0) break;
    const entry = entryAt(<u32>slot);
    if (changetype<PrefixEntry>(entry).overflow != 0 && allAlive(entry)) {
      if (total == 0) everywhere = (i + 1) * CHUNK_BYTES;
      else if (extendAll(matches, total, i * CHUNK_BYTES) == 0) break;
      continue;
    }
    if (total == 0) {
      for (let k: u32 = 0; k < HOLDERS; k++) {
        const holder = atomic.load<u64>(entry + (<usize>k << 3), ENTRY_HOLDERS);
        if (holder == 0 || !alive(holder) || listed(matches, total, <u32>holder - 1)) continue;
        const match = matchAt(matches, total++);
        match.row = <u32>holder - 1;
        match.bytes = (i + 1) * CHUNK_BYTES;
      }
      if (total == 0) break;
    } else if (extend(matches, total, i * CHUNK_BYTES, entry) == 0) break;
  }
  question().everywhere = everywhere;
  question().matches = total;
}

// A racing writer may have put a row twice into an entry.
function listed(matches: usize, total: u32, row: u32): bool {
  for (let m: u32 = 0; m < total; m++) {
    if (matchAt(matches, m).row == row) return true;
  }
  return false;
}

function allAlive(entry: usize): bool {
  for (let k: u32 = 0; k < HOLDERS; k++) {
    const holder = atomic.load<u64>(entry + (<usize>k << 3), ENTRY_HOLDERS);
    if (holder == 0 || !alive(holder)) return false;
  }
  return true;
}

// Those that hold the first `bytes` hold a chunk more; the number of them.
function extendAll(matches: usize, total: u32, bytes: u32): u32 {
  let active: u32 = 0;
  for (let m: u32 = 0; m < total; m++) {
    const match = matchAt(matches, m);
    if (match.bytes == bytes) {
      match.bytes = bytes + CHUNK_BYTES;
      active++;
    }
  }
  return active;
}

// The same of those that hold the chunk of this entry.
function extend(matches: usize, total: u32, bytes: u32, entry: usize): u32 {
  let active: u32 = 0;
  for (let m: u32 = 0; m < total; m++) {
    const match = matchAt(matches, m);
    if (match.bytes != bytes) continue;
    const wanted = match.row + 1;
    for (let k: u32 = 0; k < HOLDERS; k++) {
      const holder = atomic.load<u64>(entry + (<usize>k << 3), ENTRY_HOLDERS);
      if (<u32>holder == wanted && alive(holder)) {
        match.bytes = bytes + CHUNK_BYTES;
        active++;
        break;
      }
    }
  }
  return active;
}

/** Forgets what an endpoint held, pinned or not: it restarted, or its row changed hands. */
export function indexForget(row: u32): void {
  atomic.add<u32>(cell(ENDPOINT_INSERTED, row), 2 * load<u32>(cell(ENDPOINT_CAPACITY, row)) + 1);
}
