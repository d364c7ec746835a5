// SPDX-License-Identifier: Apache-2.0
// Which endpoints are presumed to hold which prompt prefix. A set-associative table: the key picks a bucket of 8 slots,
// a slot has up to 7 holders. Bounded: a full bucket gives up its least recently touched slot.
//
// A holder is stamped with when its chunk came out of use there, or that it is in use: ageing.ts says which stamps are of
// chunks that are there.
//
// A chunk with more holders than places is wide: it keeps those that touched it last, and of all a bit, row modulo 32. Is
// there a bit for every endpoint of the cluster that serves, it is held everywhere and says nothing about where to go.
// Else those that are recorded are known to hold it, others may. Who holds a later chunk of a prompt holds those before
// it, so it joins the holders as long as all chunks before were wide.
//
// Any worker writes at any time. Keys are published by compare-and-swap, holders are single 64-bit words; a lost update
// is a lost hint, and a reader that meets a slot while it changes hands sees a hint that may be wrong, never a fault.

import {
  ENDPOINT_BLOCK_TOKENS,
  ENDPOINT_ELIGIBILITY,
  ENDPOINT_INSERTED,
  ENDPOINT_UNCACHED,
  GROUP_ROWS,
  SERVING,
} from "../memory/endpoint";
import { HEADER_CLOCK } from "../memory/header";
import { buckets, cell, entryBase, firstGroupOf, groupAfter, hashes, keyBase, question, scratch } from "../memory/plan";
import { BUCKET_SLOTS, CHUNK_BYTES, ENTRY_BYTES, ENTRY_HOLDERS, HOLDERS, matchAt, PrefixEntry } from "../memory/prefix";
import { QUESTION_MATCH } from "../memory/question";
import { LEAST_PARTINGS, partingsAt, ticksSince, touchedAt } from "./partings";
import { ageOf, evictBeyondAll, forgotSince, isThere, pinStamp, release, stampNow, takeBack, usersOf } from "./ageing";

const INSERT: u32 = 0;
const PIN: u32 = 1;
const UNPIN: u32 = 2;
// A salt per cluster and model keeps equal prompts of different models apart; 0 marks an empty slot.
@inline
export function keyOf(hash: u64, salt: u32): u64 {
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

export function find(key: u64): i32 {
  const first = bucketOf(key) * BUCKET_SLOTS;
  const at = keyBase + (<usize>first << 3);
  for (let i: u32 = 0; i < BUCKET_SLOTS; i++) {
    if (load<u64>(at + (<usize>i << 3)) == key) return <i32>(first + i);
  }
  return -1;
}

@inline
function alive(holder: u64): bool {
  return isThere(<u32>holder - 1, <u32>(holder >> 32));
}

@inline
export function entryAt(slot: u32): usize {
  return entryBase + <usize>slot * ENTRY_BYTES;
}

/** Finds the key's slot or takes one: an empty one, else the one touched longest ago. -1 when another worker was faster. */
export function claim(key: u64, clock: u32): i32 {
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
    const age = ticksSince(changetype<PrefixEntry>(entryAt(slot)).touched, clock);
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
  fields.wide = 0;
  fields.touched = touchedAt(clock, 0);
  for (let i: u32 = 0; i < HOLDERS; i++) atomic.store<u64>(entry + (<usize>i << 3), 0, ENTRY_HOLDERS);
  return atomic.cmpxchg<u64>(at, 0, key) == 0 ? <i32>victim : -1;
}

/** Slots in use of `sampled` buckets that lie as far apart as they can, times 1,000 and over all of their slots. */
export function indexUsage(sampled: u32): u32 {
  const looked = min(max(sampled, 1), buckets);
  const step = buckets / looked;
  let used: u32 = 0;
  for (let b: u32 = 0; b < looked; b++) {
    const at = keyBase + (<usize>(b * step * BUCKET_SLOTS) << 3);
    for (let i: u32 = 0; i < BUCKET_SLOTS; i++) if (load<u64>(at + (<usize>i << 3)) != 0) used++;
  }
  return <u32>(<u64>used * 1000 / (looked * BUCKET_SLOTS));
}

// Records that an endpoint holds the chunk of this slot: inserted by others now, pinned, or out of use with the count.
// `pinned` is the count when the request that ends was pinned.
function hold(slot: u32, row: u32, clock: u32, how: u32, pinned: u32, partings: u32): void {
  const entry = entryAt(slot);
  const fields = changetype<PrefixEntry>(entry);
  fields.touched = touchedAt(clock, partingsAt(fields.touched, clock) + partings);
  // Holders of a wide one come and go in its places: counted they would be counted again and again.
  const narrow = fields.wide == 0;
  let place: i32 = -1;
  let recorded: u32 = bitOf(row);
  let gone: u32 = 0;
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
      const inUse = ageOf(row, stamp) < 0;
      if (inUse) {
        // Other requests have it in use too, or those that do are of another time.
        if (how == INSERT || (how == UNPIN && forgotSince(row, pinned))) return;
        const users = usersOf(stamp);
        if (how == PIN || users > 1) {
          const next = how == PIN ? pinStamp(row, users + 1) : stamp - 1;
          const before = atomic.cmpxchg<u64>(
            entry + (<usize>i << 3),
            holder,
            (<u64>next << 32) | (row + 1),
            ENTRY_HOLDERS,
          );
          if (before != holder) i--; // another worker was faster
          else return;
          continue;
        }
      } else if (lives && narrow) takeBack(row, stamp);
      atomic.store<u64>(entry + (<usize>i << 3), (<u64>stampFor(row, how, narrow) << 32) | (row + 1), ENTRY_HOLDERS);
      return;
    }
    if (!lives) {
      if (place < 0) place = <i32>i;
      gone |= bitOf(<u32>holder - 1);
    } else {
      recorded |= bitOf(<u32>holder - 1);
      const age = ageOf(<u32>holder - 1, <u32>(holder >> 32));
      if (age >= stalestAge) {
        stalestAge = age;
        stalest = i;
      }
    }
  }
  let wide = fields.wide;
  if (wide != 0) {
    // Whoever has aged out holds it no more, and with the recorded ones gone there is nobody that it could be wide for.
    wide = (wide & ~gone) | recorded;
    if (wide == recorded) wide = 0;
  }
  if (place < 0) {
    place = <i32>stalest;
    wide |= recorded;
  }
  fields.wide = wide;
  atomic.store<u64>(entry + (<usize>place << 3), (<u64>stampFor(row, how, narrow) << 32) | (row + 1), ENTRY_HOLDERS);
}

@inline
function stampFor(row: u32, how: u32, counts: bool): u32 {
  if (how == PIN) return pinStamp(row, 1);
  return counts ? release(row) : stampNow(row);
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
  let newBehind = false;
  for (let i = <i32>count - 1; i >= 0; i--) {
    const key = keyOf(load<u64>(scratch + hashes + (<usize>i << 3)), salt);
    const found = find(key);
    const slot = found >= 0 ? found : claim(key, clock);
    if (slot >= 0) hold(<u32>slot, row, clock, how, pinned, <u32>(newBehind && found >= 0));
    newBehind = found < 0;
  }
  evictBeyondAll(row);
}

/**
 * Records that endpoint `row` holds the first `count` hashes in scratch. Tail first: engines evict the end of a prefix
 * before its beginning, so the beginning gets the youngest stamp.
 */
export function indexInsertScratch(count: u32, salt: u32, row: u32): void {
  holdAll(count, salt, row, INSERT, 0);
}

/**
 * Looks the first `count` scratch hashes up, for the question's cluster. Writes the question's EVERYWHERE (leading bytes
 * held everywhere), HOT (leading bytes in use on most endpoints), SHARED (leading bytes behind which many part), MATCHES
 * and MATCH pairs (row, bytes): rows that hold a longer unbroken prefix than that, at most 7.
 * Once a chunk is not wide the set of rows only shrinks, so the cost is O(chunks), whatever the fleet's size. Where the
 * question has blocks too, nothing is presumed of engines that tell what they hold.
 */
export function indexLookup(count: u32, salt: u32): void {
  const matches = scratch + QUESTION_MATCH;
  let everywhere: u32 = 0;
  let total: u32 = 0;
  // Whether all chunks so far were wide: who holds a later one may have been there without being recorded.
  let open = true;
  let serving: u32 = 0;
  let hot: u32 = 0;
  let shared: u32 = 0;
  const clock = atomic.load<u32>(HEADER_CLOCK * 4);
  for (let i: u32 = 0; i < count; i++) {
    const slot = find(keyOf(load<u64>(scratch + hashes + (<usize>i << 3)), salt));
    if (slot < 0) break;
    const entry = entryAt(<u32>slot);
    const wide = changetype<PrefixEntry>(entry).wide;
    const partings = partingsAt(changetype<PrefixEntry>(entry).touched, clock);
    if (partings >= LEAST_PARTINGS) {
      if (serving == 0) serving = servingBits(question().cluster);
      if (partings >= popcnt<u32>(serving)) shared = (i + 1) * CHUNK_BYTES;
    }
    if (hot == i * CHUNK_BYTES) {
      const users = usedAt(entry);
      if (users >= 2) {
        if (serving == 0) serving = servingBits(question().cluster);
        if (users >= min(HOLDERS, (popcnt<u32>(serving) >> 1) + 1)) hot += CHUNK_BYTES;
      }
    }
    if (wide != 0) {
      if (serving == 0) serving = servingBits(question().cluster);
      if (everywhere == i * CHUNK_BYTES && (wide & serving) == serving && allAlive(entry)) {
        everywhere += CHUNK_BYTES;
        continue;
      }
    }
    const before = i * CHUNK_BYTES;
    let active = total == 0 ? 0 : extend(matches, total, before, entry, wide);
    if (open) {
      for (let k: u32 = 0; k < HOLDERS; k++) {
        const holder = atomic.load<u64>(entry + (<usize>k << 3), ENTRY_HOLDERS);
        if (holder == 0 || !presumed(holder) || listed(matches, total, <u32>holder - 1)) continue;
        const place = total < HOLDERS ? total++ : shortest(matches, before);
        if (place == HOLDERS) continue;
        const match = matchAt(matches, place);
        match.row = <u32>holder - 1;
        match.bytes = before + CHUNK_BYTES;
        active++;
      }
      open = wide != 0;
    }
    if (active == 0 && !open) break;
  }
  question().everywhere = everywhere;
  question().hot = hot;
  question().shared = shared;
  question().matches = total;
}

// Where an engine tells what it holds, only what requests before their first token compute there is presumed.
function presumed(holder: u64): bool {
  const row = <u32>holder - 1;
  if (question().blocks == 0 || load<u32>(cell(ENDPOINT_BLOCK_TOKENS, row)) == 0) return alive(holder);
  return load<u32>(cell(ENDPOINT_UNCACHED, row)) != 0 && ageOf(row, <u32>(holder >> 32)) < 0;
}

// Endpoints that have the chunk in use, as far as they are recorded.
function usedAt(entry: usize): u32 {
  let users: u32 = 0;
  for (let k: u32 = 0; k < HOLDERS; k++) {
    const holder = atomic.load<u64>(entry + (<usize>k << 3), ENTRY_HOLDERS);
    if (holder != 0 && ageOf(<u32>holder - 1, <u32>(holder >> 32)) < 0) users++;
  }
  return users;
}

@inline
function bitOf(row: u32): u32 {
  return 1 << (row & 31);
}

// The bits of a cluster's endpoints that serve; of a large one all after a few groups.
function servingBits(cluster: u32): u32 {
  let bits: u32 = 0;
  let group = firstGroupOf(cluster);
  while (group != 0 && bits != u32.MAX_VALUE) {
    group--;
    for (let row = group * GROUP_ROWS; row < (group + 1) * GROUP_ROWS; row++) {
      if ((load<u32>(cell(ENDPOINT_ELIGIBILITY, row)) & SERVING) != 0) bits |= bitOf(row);
    }
    group = groupAfter(group);
  }
  return bits;
}

// The place of the match with the least bytes, if that is not beyond `most`; HOLDERS for none.
export function shortest(matches: usize, most: u32): u32 {
  let place: u32 = HOLDERS;
  let least = most + 1;
  for (let m: u32 = 0; m < HOLDERS; m++) {
    const bytes = matchAt(matches, m).bytes;
    if (bytes < least) {
      least = bytes;
      place = m;
    }
  }
  return place;
}

// A racing writer may have put a row twice into an entry.
export function listed(matches: usize, total: u32, row: u32): bool {
  for (let m: u32 = 0; m < total; m++) {
    if (matchAt(matches, m).row == row) return true;
  }
  return false;
}

function allAlive(entry: usize): bool {
  for (let k: u32 = 0; k < HOLDERS; k++) {
    const holder = atomic.load<u64>(entry + (<usize>k << 3), ENTRY_HOLDERS);
    if (holder == 0 || !presumed(holder)) return false;
  }
  return true;
}

// Those that hold the first `bytes` and the chunk of this entry hold a chunk more; the number of them. In a wide one that
// they are not recorded says nothing.
function extend(matches: usize, total: u32, bytes: u32, entry: usize, wide: u32): u32 {
  let active: u32 = 0;
  for (let m: u32 = 0; m < total; m++) {
    const match = matchAt(matches, m);
    if (match.bytes != bytes || !holds(entry, wide, match.row)) continue;
    match.bytes = bytes + CHUNK_BYTES;
    active++;
  }
  return active;
}

function holds(entry: usize, wide: u32, row: u32): bool {
  for (let k: u32 = 0; k < HOLDERS; k++) {
    const holder = atomic.load<u64>(entry + (<usize>k << 3), ENTRY_HOLDERS);
    if (<u32>holder == row + 1) return presumed(holder);
  }
  return (wide & bitOf(row)) != 0;
}
