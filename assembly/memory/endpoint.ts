// SPDX-License-Identifier: Apache-2.0
// The endpoint table: columns of 4 bytes a row, and the identities beside them.

// Endpoint rows are given to clusters in blocks of 16, so that scoring runs over whole SIMD lanes and a cluster may
// grow without moving a row. Columns of 4 bytes a row, in this order.
export const BLOCK_ROWS: u32 = 16;
export const E_ELIGIBILITY: u32 = 0; // bit 0: serving; 1: willing; 2: on trial; 3 to 31: the cluster's label sets
export const E_REQUESTS: u32 = 1; // unfinished requests of this gateway
export const E_PROMPT: u32 = 2; // prompt bytes of this gateway before their first token
export const E_REMOTE_REQUESTS: u32 = 3; // the same of the other gateways
export const E_REMOTE_PROMPT: u32 = 4;
export const E_INSERTED: u32 = 5; // chunks ever inserted: the ageing clock of its cached prefixes
export const E_CAPACITY: u32 = 6; // chunks that its KV cache can hold
export const E_GENERATION: u32 = 7; // odd while the identity is being rewritten
export const E_STATE: u32 = 8; // 0: row unused
export const E_FAILURES: u32 = 9; // failures since the last success
export const E_DISPATCHED: u32 = 10; // requests ever sent
export const E_WAITING: u32 = 11; // f32 gauges scraped from the engine, NaN when unknown
export const E_RUNNING: u32 = 12;
export const E_KV_USAGE: u32 = 13;
export const E_UNCACHED: u32 = 14; // of E_PROMPT, the bytes that the endpoint was not presumed to hold: prefill work
export const E_PENALTY: u32 = 15; // requests that it is scored to have beyond its own: slow start
export const E_SUCCESSES: u32 = 16; // answers below 500
export const E_RELUCTANT: u32 = 17; // how long an engine that answered 429 or 503 wants to be left alone, in ms; taken by the control plane
export const E_ADAPTERS: u32 = 18; // two columns: 64 bits, one set for each LoRA adapter that it holds, by its hash
export const E_RATE: u32 = 20; // f32, ms that an uncached prompt byte takes, learned
export const E_HEAD_AT: u32 = 21; // when the prefill that it is at began, in 1/16 ms, modulo 2^32
export const E_TOUCHED: u32 = 22; // ages of the chunks that were touched again, summed
export const E_LIMIT: u32 = 23; // most requests in flight, where that is learned; 2^31 - 1 without a limit
export const E_IDLE: u32 = 24; // of E_CAPACITY, the chunks that are not in use by running requests
export const ENDPOINT_COLUMNS: u32 = 25;

/** Serving: bit 0 of the eligibility word. */
export const SERVING: u32 = 1;
/** Willing: has not asked to be left alone. Others are chosen when nobody is. */
export const WILLING: u32 = 2;
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
