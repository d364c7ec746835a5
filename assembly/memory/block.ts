// SPDX-License-Identifier: Apache-2.0
// The block index: what engines say that their caches hold, by blocks of tokens. Buckets of BUCKET_SLOTS keys, and beside
// each key an entry: how many endpoints hold the block, and the rows of up to HOLDERS of them, plus 1.

import { HOLDERS } from "./prefix";

/** Tokens to one key; an engine's blocks are several of them, or a part of one. */
export const KEY_TOKENS: u32 = 16;

@unmanaged
export class BlockEntry {
  holders: u32; // endpoints that hold it, listed or not
}

export const BLOCK_HOLDERS: u32 = offsetof<BlockEntry>("holders");
export const BLOCK_ROWS: u32 = offsetof<BlockEntry>();
export const BLOCK_BYTES: u32 = BLOCK_ROWS + HOLDERS * 4;
