// SPDX-License-Identifier: Apache-2.0
// The endpoint table: columns of 4 bytes a row, and the identities beside them.

// Endpoint rows are given to clusters in groups of 16, so that scoring runs over whole SIMD lanes and a cluster may
// grow without moving a row. Columns of 4 bytes a row, in this order.
export const GROUP_ROWS: u32 = 16;
export const ENDPOINT_ELIGIBILITY: u32 = 0; // bit 0: serving; 1: not backed off; 2: on trial; 3 to 31: the cluster's label sets
export const ENDPOINT_REQUESTS: u32 = 1; // unfinished requests of this gateway
export const ENDPOINT_PROMPT: u32 = 2; // prompt bytes of this gateway before their first token
export const ENDPOINT_REMOTE_REQUESTS: u32 = 3; // the same of the other gateways
export const ENDPOINT_REMOTE_PROMPT: u32 = 4;
export const ENDPOINT_INSERTED: u32 = 5; // chunks of its cache that ever came out of use
export const ENDPOINT_CAPACITY: u32 = 6; // chunks that its KV cache can hold
export const ENDPOINT_GENERATION: u32 = 7; // odd while the identity is being rewritten
export const ENDPOINT_STATE: u32 = 8; // 0: row unused
export const ENDPOINT_FAILURES: u32 = 9; // failures since the last success
export const ENDPOINT_DISPATCHED: u32 = 10; // requests ever sent
export const ENDPOINT_WAITING: u32 = 11; // f32 gauges scraped from the engine, NaN when unknown
export const ENDPOINT_RUNNING: u32 = 12;
export const ENDPOINT_KV_USAGE: u32 = 13;
export const ENDPOINT_UNCACHED: u32 = 14; // of these, the bytes that it was not presumed to hold: prefill work
export const ENDPOINT_PENALTY: u32 = 15; // requests that it is scored to have beyond its own: slow start
export const ENDPOINT_SUCCESSES: u32 = 16; // answers below 500
export const ENDPOINT_BACK_OFF: u32 = 17; // ms that one that answered 429 or 503 is to be left alone; the control plane takes it
export const ENDPOINT_ADAPTERS: u32 = 18; // two columns: 64 bits, one set for each LoRA adapter that it holds, by its hash
export const ENDPOINT_RATE: u32 = 20; // f32, ms that an uncached prompt byte takes, learned
export const ENDPOINT_HEAD_AT: u32 = 21; // when the prefill that it is at began, in 1/16 ms, modulo 2^32
export const ENDPOINT_FINDABLE: u32 = 22; // chunks out of use that it is presumed to hold
export const ENDPOINT_LIMIT: u32 = 23; // most requests in flight, where that is learned; 2^31 - 1 without a limit
export const ENDPOINT_IDLE: u32 = 24; // of ENDPOINT_CAPACITY, the chunks that are not in use by running requests
export const ENDPOINT_HEARD: u32 = 25; // when something last came from it, in 1/16 ms, modulo 2^32
export const ENDPOINT_TELLS: u32 = 26; // 1 when its metrics tell that it computes
export const ENDPOINT_LISTED: u32 = 27; // two columns: 64 bits, one set for each LoRA adapter that it lists, by its hash
export const ENDPOINT_ASKED: u32 = 29; // 1 when its list of models is to be read at once
export const ENDPOINT_BLOCK_TOKENS: u32 = 30; // tokens a block of its cache, while its engine tells what it holds; else 0
export const ENDPOINT_FRONTIER: u32 = 31; // epoch of the oldest of them
export const ENDPOINT_PREFILLS: u32 = 32; // requests of this gateway before their first token
export const ENDPOINT_PARALLEL: u32 = 33; // prompts that its engine computes at once
export const ENDPOINT_COLUMNS: u32 = 34;

/** Flag of an adapter's number: only an endpoint that lists the adapter is eligible. */
export const MUST_LIST: u32 = 128;

/** Serving: bit 0 of the eligibility word. */
export const SERVING: u32 = 1;
/** Not backed off: bit 1. One that is backed off is chosen when there is no other. */
export const NOT_BACKED_OFF: u32 = 2;
/** On trial: takes one request, which decides whether it serves again. */
export const TRIAL: u32 = 4;
/** The first bit of the label sets. */
export const LABEL_BITS: u32 = 3;

// Endpoint identity: u32 length, then "host:port" in UTF-8.
export const IDENTITY_BYTES: u32 = 272;

/** A time in 1/16 ms, modulo 2^32. */
@inline
export function stampOf(now: f64): u32 {
  return <u32><i64>(now * 16);
}
