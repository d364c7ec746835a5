// SPDX-License-Identifier: Apache-2.0
// Where prompts part: a chunk behind which many go on differently is the end of what they share, a system prompt. Each
// chunk counts how often a prompt that is new behind it was sent somewhere; the count halves every 1,024 requests. Where
// it is as high as there are endpoints, all before it is shared: soon everybody holds it, so it says nothing about where
// to go, although one holds it today. Who holds it first would draw all that begin with it.
//
// The count stands below the clock of an entry's last touch, in one word.

const PARTINGS_BITS: u32 = 8;
const MOST_PARTINGS: u32 = (1 << PARTINGS_BITS) - 1;
const CLOCK_MASK: u32 = 0xffffffff >> PARTINGS_BITS;
/** Beyond so many ticks a touch is one of another worker that is a few ticks ahead. */
const AHEAD: u32 = 0xfff000;
/** Requests after which a count halves, as a power of two. */
const EPOCH_BITS: u32 = 10;
/** Fewer make no beginning a shared one. */
export const LEAST_PARTINGS: u32 = 2;

/** The word of an entry that is touched now. */
@inline
export function touchedAt(clock: u32, partings: u32): u32 {
  return (clock << PARTINGS_BITS) | min(MOST_PARTINGS, partings);
}

/** Ticks since an entry was touched; 0 for one of which another worker knows already that it is touched. */
@inline
export function ticksSince(touched: u32, clock: u32): u32 {
  const passed = (clock - (touched >> PARTINGS_BITS)) & CLOCK_MASK;
  return passed > AHEAD ? 0 : passed;
}

/** How often prompts parted at a chunk lately, as it is at a time. */
@inline
export function partingsAt(touched: u32, clock: u32): u32 {
  const partings = touched & MOST_PARTINGS;
  if (partings == 0 || ticksSince(touched, clock) == 0) return partings;
  const epochs = ((clock & CLOCK_MASK) >> EPOCH_BITS) - (touched >> (PARTINGS_BITS + EPOCH_BITS));
  return partings >> min(epochs & (CLOCK_MASK >> EPOCH_BITS), PARTINGS_BITS);
}
