// SPDX-License-Identifier: Apache-2.0
// What a decision is asked and what it found, at the beginning of its worker's scratch. The fields are followed by the rows
// that were tried already, and by what the prompt was found to match: HOLDERS of Match.

@unmanaged
export class Question {
  // Asked: written by the caller.
  cluster: u32;
  mask: u32; // eligibility bits that a candidate has
  policy: u32; // POLICY_*
  percent: f32; // of the candidates, at least one, are the best that inference_lb draws from
  cacheWeight: f32;
  requestWeight: f32;
  prefillWeight: f32;
  promptColumn: u32; // what inference_lb takes for prompt_i: ENDPOINT_PROMPT or ENDPOINT_UNCACHED
  promptFloor: f32; // bytes
  adapter: u32; // number of a LoRA adapter, 1 to 64; 0 for none
  adapterWeight: f32; // what inference_lb scores its holders more
  promptBytes: u32;
  model: u32;
  ttftSlo: f32; // ms, 0 for none
  tpotSlo: f32; // ms, 0 for none
  excluded: u32; // rows at QUESTION_EXCLUDE
  restricted: u32; // 1: only rows of `allowedRows` are candidates, for the one choice that follows
  now: f64; // ms
  deadline: f64; // ms, when the first token is due; 0 for no such time
  band: u32; // priority band, 0 first
  tenant: u32;
  // Looked up.
  blocks: u32; // keys of the prompt's blocks of tokens that stand in scratch; 0 where its tokens are not known
  tokens: u32; // of the prompt, where there are blocks
  chunks: u32; // of this prompt that were hashed
  everywhere: u32; // leading bytes that every endpoint is presumed to hold
  hot: u32; // leading bytes that most endpoints have in use: worth to be computed anywhere
  shared: u32; // leading bytes that many begin with: no reason to go where they are held
  matches: u32; // of QUESTION_MATCH
  // Gathered.
  candidates: u32;
  positions: u32; // rows looked at: groups × 16
  minRequests: f32;
  maxRequests: f32;
  maxPrompt: f32;
  // Chosen.
  sloMet: u32; // endpoints that keep the objectives by prediction
  row: i32; // chosen endpoint row, -1 for none
  matched: u32; // leading bytes that it is presumed to hold
}

export const QUESTION_CLUSTER: u32 = offsetof<Question>("cluster");
export const QUESTION_MASK: u32 = offsetof<Question>("mask");
export const QUESTION_POLICY: u32 = offsetof<Question>("policy");
export const QUESTION_PERCENT: u32 = offsetof<Question>("percent");
export const QUESTION_CACHE_WEIGHT: u32 = offsetof<Question>("cacheWeight");
export const QUESTION_REQUEST_WEIGHT: u32 = offsetof<Question>("requestWeight");
export const QUESTION_PREFILL_WEIGHT: u32 = offsetof<Question>("prefillWeight");
export const QUESTION_PROMPT_COLUMN: u32 = offsetof<Question>("promptColumn");
export const QUESTION_PROMPT_FLOOR: u32 = offsetof<Question>("promptFloor");
export const QUESTION_ADAPTER: u32 = offsetof<Question>("adapter");
export const QUESTION_ADAPTER_WEIGHT: u32 = offsetof<Question>("adapterWeight");
export const QUESTION_PROMPT_BYTES: u32 = offsetof<Question>("promptBytes");
export const QUESTION_MODEL: u32 = offsetof<Question>("model");
export const QUESTION_TTFT_SLO: u32 = offsetof<Question>("ttftSlo");
export const QUESTION_TPOT_SLO: u32 = offsetof<Question>("tpotSlo");
export const QUESTION_EXCLUDED: u32 = offsetof<Question>("excluded");
export const QUESTION_RESTRICTED: u32 = offsetof<Question>("restricted");
export const QUESTION_NOW: u32 = offsetof<Question>("now");
export const QUESTION_DEADLINE: u32 = offsetof<Question>("deadline");
export const QUESTION_BAND: u32 = offsetof<Question>("band");
export const QUESTION_TENANT: u32 = offsetof<Question>("tenant");
export const QUESTION_BLOCKS: u32 = offsetof<Question>("blocks");
export const QUESTION_TOKENS: u32 = offsetof<Question>("tokens");
export const QUESTION_CHUNKS: u32 = offsetof<Question>("chunks");
export const QUESTION_EVERYWHERE: u32 = offsetof<Question>("everywhere");
export const QUESTION_HOT: u32 = offsetof<Question>("hot");
export const QUESTION_SHARED: u32 = offsetof<Question>("shared");
export const QUESTION_MATCHES: u32 = offsetof<Question>("matches");
export const QUESTION_CANDIDATES: u32 = offsetof<Question>("candidates");
export const QUESTION_POSITIONS: u32 = offsetof<Question>("positions");
export const QUESTION_MIN_REQUESTS: u32 = offsetof<Question>("minRequests");
export const QUESTION_MAX_REQUESTS: u32 = offsetof<Question>("maxRequests");
export const QUESTION_MAX_PROMPT: u32 = offsetof<Question>("maxPrompt");
export const QUESTION_SLO_MET: u32 = offsetof<Question>("sloMet");
export const QUESTION_ROW: u32 = offsetof<Question>("row");
export const QUESTION_MATCHED: u32 = offsetof<Question>("matched");

export const MAX_EXCLUDED: u32 = 8;
export const QUESTION_EXCLUDE: u32 = offsetof<Question>();
export const QUESTION_MATCH: u32 = (QUESTION_EXCLUDE + MAX_EXCLUDED * 4 + 7) & ~7;
export const QUESTION_BYTES: u32 = 320;

export const HISTOGRAM_BYTES: u32 = 2048 * 4;
