// SPDX-License-Identifier: Apache-2.0
// The header of the shared memory: what it was planned for, and the numbers that the control plane writes when it starts.

export const MAGIC: u32 = 0x57474941; // "AIGW"
export const LAYOUT_VERSION: u32 = 3;

// Header: u32 words by index.
export const H_MAGIC: u32 = 0;
export const H_VERSION: u32 = 1;
export const H_HASH: u32 = 2;
export const H_TOTAL: u32 = 3;
export const H_WORKERS: u32 = 4;
export const H_CLUSTERS: u32 = 5;
export const H_ENDPOINTS: u32 = 6;
export const H_REQUESTS: u32 = 7; // per worker
export const H_BUCKETS: u32 = 8; // prefix index buckets, a power of two
export const H_CHUNKS: u32 = 9; // most chunks of one prompt that are hashed
export const H_CELLS: u32 = 10; // metric cells per worker
export const H_RING: u32 = 12; // words of each worker's save ring
export const H_SHARING: u32 = 13; // 1 while somebody outside wants to know which prefixes are saved
export const H_PINS: u32 = 14; // pin buckets, a power of two
export const H_PREDICTORS: u32 = 15;
export const H_CLOCK: u32 = 11; // prefix index clock: one tick per insertion
export const H_TENANTS: u32 = 16;
// Late binding: f32 words, written by the control plane when it starts.
export const H_ROOM: u32 = 20; // uncached prompt bytes ahead of an endpoint below which it has room
export const H_SLACK: u32 = 23; // ms that an endpoint with room may cost more than the best one
export const H_CHARGE: u32 = 24; // price of prefill capacity at a busy share of one half
export const H_MAX_CHARGE: u32 = 25;
export const H_AGEING: u32 = 26; // a wait of 1 / this many ms halves a request's size in the order
export const H_OVERDUE: u32 = 27; // of the time that the backlog takes: a request that waits longer goes first
export const H_OVERDUE_BASE: u32 = 28; // ms
export const H_RUN: u32 = 29; // ms that a request in flight costs the next one
export const H_RUN_SQUARE: u32 = 30; // ms for the square of the requests that an endpoint has more than the least loaded
export const H_ADAPTER: u32 = 31; // ms to load a LoRA adapter
export const H_TIE: u32 = 32; // ms within which candidates are alike
export const H_LEAST: u32 = 19; // u32, uncached bytes that any request counts for
export const H_BURST: u32 = 33; // f32, bytes that a tenant may be served ahead of its share after it asked for less
export const H_AVERAGES: u32 = 18; // u32, 1 when prefill times are moving averages instead of least squares
export const H_ROOM_SHARED: u32 = 21; // f32, the same where all of it is of other gateways
export const H_ROOM_OWN: u32 = 22; // f32, own bytes ahead below which it has room where some is of other gateways
export const H_SHARE: u32 = 17; // f32, part of every limit that this gateway may use by itself
export const HEADER_BYTES: u32 = 256;
