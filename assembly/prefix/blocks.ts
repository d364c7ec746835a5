// SPDX-License-Identifier: Apache-2.0
// Which endpoints hold which blocks of tokens, as their engines tell. A key stands for all tokens up to its end, so a
// prompt's keys are looked up from its beginning. A key is in one of two buckets, wherever there is a place.
//
// One thread writes, the control plane's; workers read while it does. A key is published after its holders and taken away
// before them; a reader that meets a place while it changes hands sees a hint that may be wrong, never a fault.
//
// A block with more holders than places counts those that are not listed. Who holds a later block of a prompt holds those
// before it, so it joins the holders as long as all blocks before have such.

import { ENDPOINT_BLOCK_TOKENS, ENDPOINT_STATE, ENDPOINT_UNCACHED, GROUP_ROWS } from "../memory/endpoint";
import { HEADER_CLOCK } from "../memory/header";
import { BLOCK_BYTES, BLOCK_ROWS, BlockEntry, KEY_TOKENS } from "../memory/block";
import {
  blockBuckets,
  blockEntryBase,
  blockKeyBase,
  blockKeys,
  cell,
  enter,
  firstGroupOf,
  foundMatches,
  groupAfter,
  leave,
  question,
  questionMatch,
  scratch,
} from "../memory/plan";
import { BUCKET_SLOTS, CHUNK_BYTES, HOLDERS, matchAt } from "../memory/prefix";
import { listed, shortest } from "./index";
import { EXACT, bytesOf } from "./known";
import { computedAt, computes, computesNot, computingRow } from "./under_way";

@inline
function firstBucket(key: u64): u32 {
  return <u32>key & (blockBuckets - 1);
}

@inline
function secondBucket(key: u64): u32 {
  return <u32>((key >> 32) ^ (key >> 11)) & (blockBuckets - 1);
}

function findIn(bucket: u32, key: u64): i32 {
  const first = bucket * BUCKET_SLOTS;
  const at = blockKeyBase + (<usize>first << 3);
  for (let i: u32 = 0; i < BUCKET_SLOTS; i++) {
    if (load<u64>(at + (<usize>i << 3)) == key) return <i32>(first + i);
  }
  return -1;
}

@inline
function find(key: u64): i32 {
  const slot = findIn(firstBucket(key), key);
  return slot >= 0 ? slot : findIn(secondBucket(key), key);
}

@inline
function entryAt(slot: u32): usize {
  return blockEntryBase + <usize>slot * BLOCK_BYTES;
}

/** The key of the prompt, or of the engine's block, at a place of scratch. */
@inline
function keyAt(i: u32): u64 {
  return load<u64>(scratch + blockKeys + (<usize>i << 3));
}

/**
 * An endpoint holds the first `count` blocks in scratch from now on, none of which it held. Keys for which there is no place
 * are 0 afterwards. Returns how many of those there are.
 */
export function blocksHold(count: u32, row: u32): u32 {
  let lost: u32 = 0;
  for (let i: u32 = 0; i < count; i++) {
    const key = keyAt(i);
    if (key == 0) continue;
    let slot = find(key);
    const fresh = slot < 0;
    if (fresh) {
      slot = findIn(firstBucket(key), 0);
      if (slot < 0) slot = findIn(secondBucket(key), 0);
      if (slot < 0) {
        store<u64>(scratch + blockKeys + (<usize>i << 3), 0);
        lost++;
        continue;
      }
    }
    const entry = entryAt(<u32>slot);
    changetype<BlockEntry>(entry).holders += 1;
    for (let k: u32 = 0; k < HOLDERS; k++) {
      const at = entry + (<usize>k << 2);
      if (load<u32>(at, BLOCK_ROWS) != 0) continue;
      atomic.store<u32>(at, row + 1, BLOCK_ROWS);
      break;
    }
    if (fresh) atomic.store<u64>(blockKeyBase + (<usize>slot << 3), key);
  }
  return lost;
}

/** An endpoint that held the first `count` blocks in scratch holds them no more. Keys that are 0 are nobody's. */
export function blocksDrop(count: u32, row: u32): void {
  for (let i: u32 = 0; i < count; i++) {
    const key = keyAt(i);
    if (key == 0) continue;
    const slot = find(key);
    if (slot < 0) continue;
    const entry = entryAt(<u32>slot);
    const left = changetype<BlockEntry>(entry).holders - 1;
    if (left == 0) atomic.store<u64>(blockKeyBase + (<usize>slot << 3), 0);
    changetype<BlockEntry>(entry).holders = left;
    for (let k: u32 = 0; k < HOLDERS; k++) {
      const at = entry + (<usize>k << 2);
      if (load<u32>(at, BLOCK_ROWS) == row + 1) atomic.store<u32>(at, 0, BLOCK_ROWS);
    }
  }
}

/** A request with the prompt whose keys stand in scratch is sent to an endpoint, which computes what it does not hold. */
export function blocksComputed(count: u32, row: u32): void {
  const clock = atomic.add<u32>(HEADER_CLOCK * 4, 1) + 1;
  for (let i: u32 = 0; i < count; i++) {
    const slot = find(keyAt(i));
    if (slot < 0 || !lists(entryAt(<u32>slot), row)) computes(keyAt(i), row, clock);
  }
}

/** That request is over. */
export function blocksNotComputed(count: u32, row: u32): void {
  for (let i: u32 = 0; i < count; i++) computesNot(keyAt(i), row);
}

/** Whether an engine of a cluster tells what it holds. */
export function blocksTold(cluster: u32): bool {
  enter(cluster);
  rowsOf(cluster);
  leave();
  return largest != 0;
}

// Rows of a cluster that are in use, if all of them tell what they hold; else more than there are. Their largest block is
// left in `largest`.
let largest: u32 = 0;
// Whether prompts are computed in the cluster.
let computing = false;
function rowsOf(cluster: u32): u32 {
  let rows: u32 = 0;
  let silent: u32 = 0;
  let most = i32x4.splat(0);
  let prompts = i32x4.splat(0);
  const zero = i32x4.splat(0);
  let group = firstGroupOf(cluster);
  while (group != 0) {
    group--;
    for (let lane: u32 = 0; lane < GROUP_ROWS; lane += 4) {
      const row = group * GROUP_ROWS + lane;
      const used = i32x4.ne(v128.load(cell(ENDPOINT_STATE, row)), zero);
      const tokens = v128.and(v128.load(cell(ENDPOINT_BLOCK_TOKENS, row)), used);
      rows += popcnt<u32>(i32x4.bitmask(used));
      silent |= i32x4.bitmask(v128.and(used, i32x4.eq(tokens, zero)));
      most = i32x4.max_u(most, tokens);
      prompts = v128.or(prompts, v128.and(v128.load(cell(ENDPOINT_UNCACHED, row)), used));
    }
    group = groupAfter(group);
  }
  largest = max(
    max(i32x4.extract_lane(most, 0), i32x4.extract_lane(most, 1)),
    max(i32x4.extract_lane(most, 2), i32x4.extract_lane(most, 3)),
  );
  computing = v128.any_true(prompts);
  return silent == 0 ? rows : u32.MAX_VALUE;
}

/**
 * Looks the question's blocks up, whose keys stand in scratch, and puts what is found in the place of what was presumed:
 * EVERYWHERE, MATCHES and MATCH, marked EXACT. Endpoints whose engines tell nothing keep what is presumed of them, the
 * others only what requests under way compute there.
 */
export function blocksLookup(): void {
  const count = question().blocks;
  const rows = rowsOf(question().cluster);
  let everywhere: u32 = 0;
  let total: u32 = 0;
  let open = true;
  for (let i: u32 = 0; i < count; i++) {
    const slot = find(keyAt(i));
    const entry: usize = slot < 0 ? 0 : entryAt(<u32>slot);
    const holders: u32 = slot < 0 ? 0 : changetype<BlockEntry>(entry).holders;
    if (everywhere == i && holders >= rows) {
      everywhere++;
      continue;
    }
    const underWay: usize = computing ? computedAt(keyAt(i)) : 0;
    if (entry == 0 && underWay == 0) break;
    let listed: u32 = 0;
    if (entry != 0) {
      for (let k: u32 = 0; k < HOLDERS; k++) {
        if (load<u32>(entry + (<usize>k << 2), BLOCK_ROWS) != 0) listed++;
      }
    }
    const more = holders > listed;
    let active: u32 = 0;
    for (let m: u32 = 0; m < total; m++) {
      const match = matchAt(scratch + foundMatches, m);
      const row = match.row;
      if (match.bytes != i) continue;
      if (!more && !(entry != 0 && lists(entry, row)) && !(underWay != 0 && computedOn(underWay, row))) continue;
      match.bytes = i + 1;
      active++;
    }
    if (open) {
      for (let k: u32 = 0; k < HOLDERS; k++) {
        if (entry != 0) {
          const holder = atomic.load<u32>(entry + (<usize>k << 2), BLOCK_ROWS);
          if (holder != 0) total = found(total, holder - 1, i);
        }
        if (underWay != 0) {
          const row = computingRow(underWay, k);
          if (row >= 0) total = found(total, row, i);
        }
      }
      active = total;
      open = more;
    }
    if (active == 0 && !open) break;
  }
  const common = wholeBlocks(everywhere, max<u32>(1, largest));
  if (rows != u32.MAX_VALUE) question().everywhere = common > 0 ? exactBytes(common) : EXACT;
  for (let m: u32 = 0; m < total; m++) {
    const match = matchAt(scratch + foundMatches, m);
    const tokens = load<u32>(cell(ENDPOINT_BLOCK_TOKENS, match.row));
    if (tokens == 0) continue;
    const held = wholeBlocks(match.bytes, tokens);
    if (held > 0) put(match.row, exactBytes(held));
  }
}

// Tokens of so many keys that are whole blocks of the engine, and not the prompt's last token: it is always computed.
@inline
function wholeBlocks(keys: u32, tokens: u32): u32 {
  return min(keys * KEY_TOKENS, question().tokens - 1) / tokens * tokens;
}

// Adds a row that holds the first i + 1 blocks to what is found, unless it is there; returns how many that are then.
function found(total: u32, row: u32, i: u32): u32 {
  const matches = scratch + foundMatches;
  if (listed(matches, total, row)) return total;
  const place = total < HOLDERS ? total : shortest(matches, i);
  if (place == HOLDERS) return total;
  const match = matchAt(matches, place);
  match.row = row;
  match.bytes = i + 1; // blocks, until they are told in bytes
  return max(total, place + 1);
}

function computedOn(underWay: usize, row: u32): bool {
  for (let k: u32 = 0; k < HOLDERS; k++) if (computingRow(underWay, k) == <i32>row) return true;
  return false;
}

@inline
function exactBytes(tokens: u32): u32 {
  const bytes = <f64>question().promptBytes * <f64>tokens / <f64>question().tokens;
  return <u32>ceil<f64>(bytes) | EXACT;
}

@inline
function lists(entry: usize, row: u32): bool {
  for (let k: u32 = 0; k < HOLDERS; k++) {
    if (load<u32>(entry + (<usize>k << 2), BLOCK_ROWS) == row + 1) return true;
  }
  return false;
}

// Puts a match among those of the question, in the place of a smaller one.
function put(row: u32, bytes: u32): void {
  const matches = question().matches;
  let smallest: u32 = HOLDERS;
  let least = weightOf(bytes);
  for (let m: u32 = 0; m < matches; m++) {
    const match = questionMatch(m);
    if (match.row == row) {
      // Chunks of text are coarse: only where they say clearly more, a request computes it whose tokens are not known.
      if (weightOf(match.bytes) < weightOf(bytes) + 2 * CHUNK_BYTES) match.bytes = bytes;
      return;
    }
    if (weightOf(match.bytes) < least) {
      least = weightOf(match.bytes);
      smallest = m;
    }
  }
  if (matches < HOLDERS) {
    smallest = matches;
    question().matches = matches + 1;
  }
  if (smallest == HOLDERS) return;
  questionMatch(smallest).row = row;
  questionMatch(smallest).bytes = bytes;
}

// Bytes that a match is taken for.
@inline
function weightOf(matched: u32): u32 {
  return (matched & EXACT) != 0 ? bytesOf(matched) : matched + CHUNK_BYTES;
}
