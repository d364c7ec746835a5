// SPDX-License-Identifier: Apache-2.0
// Every field of the shared memory: which region has it, where in a row it is, and what it means. layout.ts places the
// regions. Offsets are in bytes but where a comment says words.

export const MAGIC: u32 = 0x57474941; // "AIGW"
export const LAYOUT_VERSION: u32 = 2;

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
export const H_SLACK: u32 = 21; // ms that an endpoint with room may cost more than the best one
export const H_CHARGE: u32 = 22; // price of prefill capacity at a busy share of one half
export const H_MAX_CHARGE: u32 = 23;
export const H_AGEING: u32 = 24; // a wait of 1 / this many ms halves a request's size in the order
export const H_OVERDUE: u32 = 25; // of the time that the backlog takes: a request that waits longer goes first
export const H_OVERDUE_BASE: u32 = 26; // ms
export const H_RUN: u32 = 27; // ms that a request in flight costs the next one
export const H_RUN_SQUARE: u32 = 28; // ms for the square of the requests that an endpoint has more than the least loaded
export const H_ADAPTER: u32 = 29; // ms to load a LoRA adapter
export const H_TIE: u32 = 30; // ms within which candidates are alike
export const H_LEAST: u32 = 31; // u32, uncached bytes that any request counts for
export const H_BURST: u32 = 33; // f32, bytes that a tenant may be served ahead of its share after it asked for less
export const H_AVERAGES: u32 = 34; // u32, 1 when prefill times are moving averages instead of least squares
export const H_ROOM_SHARED: u32 = 35; // f32, the same where all of it is of other gateways
export const H_ROOM_OWN: u32 = 36; // f32, own bytes ahead below which it has room where some is of other gateways
export const H_SHARE: u32 = 32; // f32, part of every limit that this gateway may use by itself
export const HEADER_BYTES: u32 = 256;

/** Bytes of prompt text to one prefix hash; the wire unit of the metadata center. */
export const CHUNK_BYTES: u32 = 512;

// Cluster: u32 words, but for the f64 that are marked.
export const CLUSTER_BYTES: u32 = 128;
export const C_FIRST_BLOCK: u32 = 0; // block number + 1, 0 for an empty cluster
export const C_TURN: u32 = 4; // round robin counter
export const C_BLOCKS: u32 = 8;
export const C_LOCK: u32 = 12; // 0, or the block + 1 of the worker that decides
export const C_WAITING: u32 = 16; // requests that wait for an endpoint
export const C_WORK: u32 = 20; // their prefill work in bytes
export const C_BUSY: u32 = 24; // f64, share of the endpoints with prefill work, moving mean
export const C_BUSY_NOW: u32 = 32; // f64, the share when it was last looked at
export const C_BUSY_AT: u32 = 40; // f64, ms
export const C_HITS: u32 = 48; // f64, share of prompt bytes that were held, moving mean
export const C_SATURATION: u32 = 56; // f32, 1 and more when the cluster has no room for what may wait
export const C_CLASSES: u32 = 64; // CLASSES pairs of u32: requests that wait in each class of priority, their bytes
export const C_DEMAND: u32 = 88; // CLASSES f64: prefill bytes a ms that the classes were let in with lately
export const C_DEMAND_AT: u32 = 112; // f64, ms
export const CLASSES: u32 = 3;

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

// Request row: u32 words, but for the f64 that are marked.
export const REQUEST_BYTES: u32 = 192;
export const R_PHASE: u32 = 0;
export const R_ENDPOINT: u32 = 4;
export const R_PROMPT: u32 = 8; // prompt bytes
export const R_GRANT: u32 = 12; // grows with each grant of its worker
export const R_CLUSTER: u32 = 16;
export const R_HELD: u32 = 20; // 1 while the prompt bytes are on the endpoint
export const R_GENERATION: u32 = 24; // bumped each time the row is opened
export const R_MODEL: u32 = 28;
export const R_STARTED: u32 = 32; // f64, ms since the epoch
export const R_CACHED: u32 = 40; // chunks matched on the granted endpoint
export const R_UNCACHED: u32 = 44; // prompt bytes beyond them

export const R_SENT: u32 = 48; // f64, ms, when it was sent to the endpoint
export const R_HIDDEN: u32 = 56; // 1 when its first token will not be seen
export const R_AHEAD: u32 = 60; // uncached bytes that were ahead of it at the grant
// What a request that waits for an endpoint brings along, for whoever grants.
export const R_QUEUED: u32 = 64; // f64, ms, when it began to wait
export const R_DEADLINE: u32 = 72; // f64, ms, when its first token is due; 0 for no such time
export const R_MASK: u32 = 80; // eligibility bits that it needs
export const R_ADAPTER: u32 = 84;
export const R_BAND: u32 = 88; // priority band, 0 first
export const R_TENANT: u32 = 92;
export const R_WORK: u32 = 96; // bytes that it counts for in the backlog
export const R_EVERYWHERE: u32 = 100;
export const R_MATCHES: u32 = 104;
export const R_MATCH: u32 = 108; // HOLDERS pairs of u32: endpoint row, chunks
export const R_CLASS: u32 = 164; // class of its band
export const R_ADMITTED: u32 = 168; // 1 while it counts in its tenant's concurrency
export const R_PREEMPTED: u32 = 172; // 1 when it is to make room for one of higher priority

export const PHASE_FREE: u32 = 0;
export const PHASE_WAITING: u32 = 1;
export const PHASE_GRANTING: u32 = 2; // a grant is being written
export const PHASE_GRANTED: u32 = 3;
export const PHASE_PREFILLING: u32 = 4;
export const PHASE_DECODING: u32 = 5;

// Tenant: u32 words, but for those that are marked.
export const TENANT_BYTES: u32 = 192;
export const T_WAITING: u32 = 0;
export const T_WORK: u32 = 4; // bytes of prefill work that wait
export const T_VIRTUAL: u32 = 8; // u64, tokens served over weight, in 1/1024
export const T_WEIGHT: u32 = 16; // f32
export const T_DRAINED: u32 = 24; // f64, bytes of work granted while somebody waited, decaying
export const T_DRAIN_TIME: u32 = 32; // f64, ms in which that happened, decaying alike
export const T_DRAIN_AT: u32 = 40; // f64, ms
export const T_CONCURRENCY: u32 = 48; // requests under way
// Use of the limits a minute, one window each of requests, input tokens, output tokens: a u64 of 8 bits of the minute,
// 28 of the last minute's use, 28 of this one's. Beside it, u32, what other gateways used in the last 60 s.
export const T_WINDOWS: u32 = 64;
export const T_REMOTE: u32 = 88;
export const T_TOTALS: u32 = 104; // i64 each, what was ever used of a window, less what was given back
export const T_PRESUMED: u32 = 128; // u32 each, what other gateways may be using of a window until they tell
export const WINDOWS: u32 = 3;

// Prefix index: buckets of 8 keys (one cache line), and beside each key an entry of one cache line:
// u32 touched, u32 overflow, then 7 holders of u64: endpoint row + 1 (low), stamp (high).
export const BUCKET_SLOTS: u32 = 8;
export const ENTRY_BYTES: u32 = 64;
export const HOLDERS: u32 = 7;
export const N_TOUCHED: u32 = 0;
export const N_OVERFLOW: u32 = 4;
export const N_HOLDERS: u32 = 8;

// Save ring of one worker: u32 words written and read so far, the epoch of the block (bumped when its worker is given
// up: what the old one still does with requests counts for nothing), then a ring of words. One writer (the worker), one reader
// (the control plane): each publishes its own count with one atomic store.
export const RING_HEADER_BYTES: u32 = 64;
export const G_EPOCH: u32 = 8;
export const G_GRANTS: u32 = 12; // grants to this worker's requests so far; a futex word

// Scratch of one worker. D_*: the decision, u32/f32 words from its start.
export const DECISION_BYTES: u32 = 256;
export const D_ROW: u32 = 0; // chosen endpoint row, -1 for none
export const D_CANDIDATES: u32 = 4;
export const D_CHUNKS: u32 = 8; // chunks of this prompt
export const D_EVERYWHERE: u32 = 12; // leading chunks that every endpoint is presumed to hold
export const D_MATCHES: u32 = 16; // number of (row, chunks) pairs at D_MATCH
export const D_MATCHED: u32 = 20; // chunks matched on the chosen endpoint
export const D_POSITIONS: u32 = 24; // rows looked at: blocks × 16
export const D_MIN_REQUESTS: u32 = 28; // f32
export const D_MAX_REQUESTS: u32 = 32; // f32
export const D_MAX_PROMPT: u32 = 36; // f32
export const D_EXCLUDED: u32 = 40; // number of rows at D_EXCLUDE, written by the caller
export const D_EXCLUDE: u32 = 44; // up to 8 rows that were tried already
export const MAX_EXCLUDED: u32 = 8;
export const D_MATCH: u32 = 80; // HOLDERS pairs of u32
export const D_TTFT_SLO: u32 = 136; // f32, ms, 0 for none, written by the caller
export const D_TPOT_SLO: u32 = 140; // f32, ms, 0 for none, written by the caller
export const D_PREDICTED: u32 = 144; // f32, ms to the first token on the chosen endpoint
export const D_SLO_MET: u32 = 148; // whether an endpoint keeps the objectives by prediction
export const HISTOGRAM_BYTES: u32 = 2048 * 4;

// Pins: buckets of 8 entries of u64 key (0 for none) and u64 value: u32 endpoint row (low), u32 its generation (high).
export const PIN_BUCKET_ENTRIES: u32 = 8;
export const PIN_BYTES: u32 = 16;

// Predictor: one recursive least squares model of up to 6 features, written by the control plane alone. The published
// parameters are read under a sequence counter, odd while they change; the covariance is the trainer's.
export const PREDICTOR_BYTES: u32 = 512;
export const FEATURES: u32 = 6;
export const M_SEQUENCE: u32 = 0; // u32
export const M_SAMPLES: u32 = 8; // f64, samples learned from
export const M_THETA: u32 = 16; // f64 × 6
export const M_ERROR: u32 = 64; // f64, moving mean of |error| / value
export const M_RATIO: u32 = 72; // f64, prompt bytes to a token, 0 when not known
export const M_RATE: u32 = 80; // f64, ms that an uncached prompt byte takes over all its endpoints, 0 when not known
export const M_COVARIANCE: u32 = 128; // f64 × 36

// Moving averages of a model's prefill times: f32 ms for each KiB of its prompts, 0 where there is none.
export const AVERAGES: u32 = 1024;

// Samples of one worker for the trainer: u32 samples written and read so far, then a ring of SAMPLES of SAMPLE_FIELDS f64.
// One writer (the worker), one reader (the control plane), as the save ring.
export const SAMPLES: u32 = 1024;
export const SAMPLE_FIELDS: u32 = 9;
export const SAMPLE_RING_BYTES: u32 = 64 + SAMPLES * SAMPLE_FIELDS * 8;
