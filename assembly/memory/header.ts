// SPDX-License-Identifier: Apache-2.0
// The header of the shared memory: what it was planned for, and the numbers that the control plane writes when it
// starts. Its fields are words; TypeScript knows them by their index.

export const MAGIC: u32 = 0x57474941; // "AIGW"
export const LAYOUT_VERSION: u32 = 4;
export const HEADER_BYTES: u32 = 256;

@unmanaged
export class Header {
  magic: u32;
  version: u32;
  hash: u32;
  total: u32; // bytes
  workers: u32;
  clusters: u32;
  endpoints: u32;
  requests: u32; // per worker
  buckets: u32; // prefix index buckets, a power of two
  chunks: u32; // most chunks of one prompt that are hashed
  cells: u32; // metric cells per worker
  clock: u32; // prefix index clock: one tick per insertion
  ring: u32; // words of each worker's save ring
  sharing: u32; // 1 while somebody outside wants to know which prefixes are saved
  responses: u32; // buckets of stored responses, a power of two
  predictors: u32;
  tenants: u32;
  blocks: u32; // block index buckets, a power of two
  share: f32; // part of every limit that this gateway may use by itself
  averages: u32; // 1 when prefill times are moving averages instead of least squares
  bytesPerToken: f32; // of prompts, until a model's own ratio is known
  // Late binding.
  minWork: u32; // uncached bytes that any request counts for
  room: f32; // uncached prompt bytes ahead of an endpoint below which it has room
  pack: f32; // up to so many with its own a request is sent to where there is no room
  roomShared: f32; // the same where all of it is of other gateways
  roomOwn: f32; // own bytes ahead below which it has room where some is of other gateways
  slack: f32; // ms that an endpoint with room may cost more than the best one
  charge: f32; // price of prefill capacity at a busy share of one half
  maxCharge: f32;
  stall: f32; // what is added to the price for each request in flight on a mean endpoint: its tokens wait for prefills
  ageing: f32; // a wait of 1 / this many ms halves a request's size in the order
  overdue: f32; // of the time that the backlog takes: a request that waits longer goes first
  overdueBase: f32; // ms
  run: f32; // ms that a request in flight costs the next one, by prediction
  balance: f32; // ms that as many requests in flight as on a mean endpoint cost the next one
  parallel: u32; // 1 when there are engines that compute several prompts at once
  adapter: f32; // ms to load a LoRA adapter
  tie: f32; // ms within which candidates are alike
  burst: f32; // bytes that a tenant may be served ahead of its share after it asked for less
}

@inline
export function header(): Header {
  return changetype<Header>(0);
}

export const HEADER_MAGIC: u32 = offsetof<Header>("magic") / 4;
export const HEADER_VERSION: u32 = offsetof<Header>("version") / 4;
export const HEADER_HASH: u32 = offsetof<Header>("hash") / 4;
export const HEADER_TOTAL: u32 = offsetof<Header>("total") / 4;
export const HEADER_WORKERS: u32 = offsetof<Header>("workers") / 4;
export const HEADER_CLUSTERS: u32 = offsetof<Header>("clusters") / 4;
export const HEADER_ENDPOINTS: u32 = offsetof<Header>("endpoints") / 4;
export const HEADER_REQUESTS: u32 = offsetof<Header>("requests") / 4;
export const HEADER_BUCKETS: u32 = offsetof<Header>("buckets") / 4;
export const HEADER_CHUNKS: u32 = offsetof<Header>("chunks") / 4;
export const HEADER_CELLS: u32 = offsetof<Header>("cells") / 4;
export const HEADER_CLOCK: u32 = offsetof<Header>("clock") / 4;
export const HEADER_RING: u32 = offsetof<Header>("ring") / 4;
export const HEADER_SHARING: u32 = offsetof<Header>("sharing") / 4;
export const HEADER_RESPONSES: u32 = offsetof<Header>("responses") / 4;
export const HEADER_PREDICTORS: u32 = offsetof<Header>("predictors") / 4;
export const HEADER_TENANTS: u32 = offsetof<Header>("tenants") / 4;
export const HEADER_BLOCKS: u32 = offsetof<Header>("blocks") / 4;
export const HEADER_SHARE: u32 = offsetof<Header>("share") / 4;
export const HEADER_AVERAGES: u32 = offsetof<Header>("averages") / 4;
export const HEADER_BYTES_PER_TOKEN: u32 = offsetof<Header>("bytesPerToken") / 4;
export const HEADER_MIN_WORK: u32 = offsetof<Header>("minWork") / 4;
export const HEADER_ROOM: u32 = offsetof<Header>("room") / 4;
export const HEADER_PACK: u32 = offsetof<Header>("pack") / 4;
export const HEADER_ROOM_SHARED: u32 = offsetof<Header>("roomShared") / 4;
export const HEADER_ROOM_OWN: u32 = offsetof<Header>("roomOwn") / 4;
export const HEADER_SLACK: u32 = offsetof<Header>("slack") / 4;
export const HEADER_CHARGE: u32 = offsetof<Header>("charge") / 4;
export const HEADER_MAX_CHARGE: u32 = offsetof<Header>("maxCharge") / 4;
export const HEADER_STALL: u32 = offsetof<Header>("stall") / 4;
export const HEADER_AGEING: u32 = offsetof<Header>("ageing") / 4;
export const HEADER_OVERDUE: u32 = offsetof<Header>("overdue") / 4;
export const HEADER_OVERDUE_BASE: u32 = offsetof<Header>("overdueBase") / 4;
export const HEADER_RUN: u32 = offsetof<Header>("run") / 4;
export const HEADER_BALANCE: u32 = offsetof<Header>("balance") / 4;
export const HEADER_PARALLEL: u32 = offsetof<Header>("parallel") / 4;
export const HEADER_ADAPTER: u32 = offsetof<Header>("adapter") / 4;
export const HEADER_TIE: u32 = offsetof<Header>("tie") / 4;
export const HEADER_BURST: u32 = offsetof<Header>("burst") / 4;
