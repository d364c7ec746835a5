// SPDX-License-Identifier: Apache-2.0
// What a decision is asked and what it found, in the scratch block of its worker.

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
export const D_EXCLUDE: u32 = 56; // up to 8 rows that were tried already
export const MAX_EXCLUDED: u32 = 8;
export const D_MATCH: u32 = 88; // HOLDERS pairs of u32
export const D_TTFT_SLO: u32 = 44; // f32, ms, 0 for none, written by the caller
export const D_TPOT_SLO: u32 = 48; // f32, ms, 0 for none, written by the caller
export const D_SLO_MET: u32 = 52; // whether an endpoint keeps the objectives by prediction
export const HISTOGRAM_BYTES: u32 = 2048 * 4;
