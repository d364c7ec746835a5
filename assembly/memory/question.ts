// SPDX-License-Identifier: Apache-2.0
// What a decision is asked and what it found, at the beginning of its worker's scratch. The fields are followed by the rows
// that were tried already, and by what the prompt was found to match: HOLDERS of Match.

@unmanaged
export class Question {
  row: i32; // chosen endpoint row, -1 for none
  candidates: u32;
  chunks: u32; // chunks of this prompt
  everywhere: u32; // leading chunks that every endpoint is presumed to hold
  matches: u32; // of QUESTION_MATCH
  matched: u32; // chunks matched on the chosen endpoint
  positions: u32; // rows looked at: blocks × 16
  minRequests: f32;
  maxRequests: f32;
  maxPrompt: f32;
  excluded: u32; // of QUESTION_EXCLUDE, written by the caller
  ttftSlo: f32; // ms, 0 for none, written by the caller
  tpotSlo: f32; // ms, 0 for none, written by the caller
  sloMet: u32; // endpoints that keep the objectives by prediction
}

export const QUESTION_ROW: u32 = offsetof<Question>("row");
export const QUESTION_CANDIDATES: u32 = offsetof<Question>("candidates");
export const QUESTION_CHUNKS: u32 = offsetof<Question>("chunks");
export const QUESTION_EVERYWHERE: u32 = offsetof<Question>("everywhere");
export const QUESTION_MATCHES: u32 = offsetof<Question>("matches");
export const QUESTION_MATCHED: u32 = offsetof<Question>("matched");
export const QUESTION_POSITIONS: u32 = offsetof<Question>("positions");
export const QUESTION_MIN_REQUESTS: u32 = offsetof<Question>("minRequests");
export const QUESTION_MAX_REQUESTS: u32 = offsetof<Question>("maxRequests");
export const QUESTION_MAX_PROMPT: u32 = offsetof<Question>("maxPrompt");
export const QUESTION_EXCLUDED: u32 = offsetof<Question>("excluded");
export const QUESTION_TTFT_SLO: u32 = offsetof<Question>("ttftSlo");
export const QUESTION_TPOT_SLO: u32 = offsetof<Question>("tpotSlo");
export const QUESTION_SLO_MET: u32 = offsetof<Question>("sloMet");

export const MAX_EXCLUDED: u32 = 8;
export const QUESTION_EXCLUDE: u32 = offsetof<Question>();
export const QUESTION_MATCH: u32 = (QUESTION_EXCLUDE + MAX_EXCLUDED * 4 + 7) & ~7;
export const QUESTION_BYTES: u32 = 256;

export const HISTOGRAM_BYTES: u32 = 2048 * 4;
