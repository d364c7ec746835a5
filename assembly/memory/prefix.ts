// SPDX-License-Identifier: Apache-2.0
// The prefix index: buckets of 8 keys (one cache line), and beside each key an entry of one cache line: its fields, then
// HOLDERS u64 of endpoint row + 1 (low) and stamp (high). And what a lookup finds.

/** Bytes of prompt text to one prefix hash; the wire unit of the metadata center. */
export const CHUNK_BYTES: u32 = 512;
export const BUCKET_SLOTS: u32 = 8;
export const HOLDERS: u32 = 7;
/** Epochs of an endpoint's stamps that are counted: a power of two. */
export const EPOCHS: u32 = 512;

@unmanaged
export class PrefixEntry {
  touched: u32; // the clock when it was last inserted or held, 24 bits, and below it how often prompts parted here
  wide: u32; // 0, or when it has more holders than places a bit for each that it has had: row modulo 32
}

export const ENTRY_TOUCHED: u32 = offsetof<PrefixEntry>("touched");
export const ENTRY_WIDE: u32 = offsetof<PrefixEntry>("wide");
export const ENTRY_HOLDERS: u32 = offsetof<PrefixEntry>();
export const ENTRY_BYTES: u32 = ENTRY_HOLDERS + HOLDERS * 8;

/** A row that holds a beginning of a prompt, and how much of it. */
@unmanaged
export class Match {
  row: u32;
  bytes: u32;
}

export const MATCH_ROW: u32 = offsetof<Match>("row");
export const MATCH_LENGTH: u32 = offsetof<Match>("bytes");
export const MATCH_BYTES: u32 = offsetof<Match>();

@inline
export function matchAt(matches: usize, i: u32): Match {
  return changetype<Match>(matches + <usize>i * MATCH_BYTES);
}
