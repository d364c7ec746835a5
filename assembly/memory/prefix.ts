// SPDX-License-Identifier: Apache-2.0
// The prefix index and its entries.

/** Bytes of prompt text to one prefix hash; the wire unit of the metadata center. */
export const CHUNK_BYTES: u32 = 512;

// Prefix index: buckets of 8 keys (one cache line), and beside each key an entry of one cache line:
// u32 touched, u32 overflow, then 7 holders of u64: endpoint row + 1 (low), stamp (high).
export const BUCKET_SLOTS: u32 = 8;
export const ENTRY_BYTES: u32 = 64;
export const HOLDERS: u32 = 7;
export const N_TOUCHED: u32 = 0;
export const N_OVERFLOW: u32 = 4;
export const N_HOLDERS: u32 = 8;
