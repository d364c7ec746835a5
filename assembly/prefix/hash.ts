// SPDX-License-Identifier: Apache-2.0
// Prefix hashes: hash i covers the whole prompt text up to the end of chunk i, the last chunk possibly short. Chunk
// ends need not fall on 16-byte blocks: the state holds whole blocks only, and what lies between the last whole block
// and the chunk's end is hashed as a tail that the next chunk absorbs again.

import { hashes, maxChunks, promptText, scratch } from "../memory/plan";
import { absorb, peek, reset, second } from "./murmur3";

/** Hashes the first `length` bytes of this worker's prompt text in chunks; returns how many there are. */
export function hashPrompt(length: u32, chunkBytes: u32): u32 {
  if (length == 0 || chunkBytes == 0) return 0;
  const text = scratch + promptText;
  const out = scratch + hashes;
  reset();
  let absorbed: u32 = 0;
  let end: u32 = 0;
  let count: u32 = 0;
  while (end < length && count < maxChunks) {
    end = min(length, end + chunkBytes);
    const blocks = (end - absorbed) >> 4;
    absorb(text + absorbed, blocks);
    absorbed += blocks << 4;
    store<u64>(out + (<usize>count << 3), peek(text + absorbed, end - absorbed, end));
    count++;
  }
  return count;
}

/** The first half of the digest of so many bytes at an address. */
export function digestAt(at: usize, length: u32): u64 {
  reset();
  const blocks = length >> 4;
  absorb(at, blocks);
  return peek(at + (<usize>blocks << 4), length & 15, length);
}

/** Starts a digest of any length over pieces put into the prompt text; every piece but the last is a multiple of 16. */
export function digestStart(): void {
  reset();
}
export function digestAbsorb(blocks: u32): void {
  absorb(scratch + promptText, blocks);
}
/** Ends it with the piece of `tail` (0 to 15) bytes at `at` in the prompt text: 16 bytes to the first two hashes. */
export function digestEnd(at: u32, tail: u32, total: f64): void {
  const first = peek(scratch + promptText + at, tail, <u64>total);
  store<u64>(scratch + hashes, first);
  store<u64>(scratch + hashes, second, 8);
}
