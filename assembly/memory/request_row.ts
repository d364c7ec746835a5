// SPDX-License-Identifier: Apache-2.0
// A row for each request in flight: its load, and what it brings along while it waits.

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
export const R_CACHED: u32 = 32; // chunks matched on the granted endpoint
export const R_UNCACHED: u32 = 36; // prompt bytes beyond them

export const R_SENT: u32 = 40; // f64, ms, when it was sent to the endpoint
export const R_HIDDEN: u32 = 48; // 1 when its first token will not be seen
export const R_AHEAD: u32 = 52; // uncached bytes that were ahead of it at the grant
// What a request that waits for an endpoint brings along, for whoever grants.
export const R_QUEUED: u32 = 56; // f64, ms, when it began to wait
export const R_DEADLINE: u32 = 64; // f64, ms, when its first token is due; 0 for no such time
export const R_MASK: u32 = 72; // eligibility bits that it needs
export const R_ADAPTER: u32 = 76;
export const R_BAND: u32 = 80; // priority band, 0 first
export const R_TENANT: u32 = 84;
export const R_WORK: u32 = 88; // bytes that it counts for in the backlog
export const R_EVERYWHERE: u32 = 104;
export const R_MATCHES: u32 = 108;
export const R_MATCH: u32 = 112; // HOLDERS pairs of u32: endpoint row, chunks
export const R_CLASS: u32 = 92; // class of its band
export const R_ADMITTED: u32 = 96; // 1 while it counts in its tenant's concurrency
export const R_PREEMPTED: u32 = 100; // 1 when it is to make room for one of higher priority

export const PHASE_FREE: u32 = 0;
export const PHASE_WAITING: u32 = 1;
export const PHASE_GRANTING: u32 = 2; // a grant is being written
export const PHASE_GRANTED: u32 = 3;
export const PHASE_PREFILLING: u32 = 4;
export const PHASE_DECODING: u32 = 5;
