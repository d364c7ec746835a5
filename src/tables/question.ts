// SPDX-License-Identifier: Apache-2.0
// What a decision is asked, in this worker's scratch: the caller writes it, the kernel reads it and writes beside it what it
// found and chose.

import type { AttachedKernel } from "../../wasm/kernel.ts";

/** Indexes of a question's fields in views of the whole memory: in 4-byte words, of `nowMs` and `deadlineMs` in 8-byte ones. */
export interface QuestionFields {
  readonly cluster: number;
  readonly eligibility: number;
  readonly policy: number;
  readonly percent: number;
  readonly cacheWeight: number;
  readonly requestWeight: number;
  readonly prefillWeight: number;
  readonly promptColumn: number;
  readonly promptFloor: number;
  readonly adapter: number;
  readonly adapterWeight: number;
  readonly promptBytes: number;
  readonly model: number;
  readonly ttftSlo: number;
  readonly tpotSlo: number;
  readonly excluded: number;
  /** 1 where the next choice is among the rows whose bits are set at `allowed`. */
  readonly restricted: number;
  /** The first of the rows that were tried already. */
  readonly exclude: number;
  readonly nowMs: number;
  readonly deadlineMs: number;
  readonly band: number;
  readonly tenant: number;
  /** Keys of its blocks that stand in scratch, and its tokens. */
  readonly blocks: number;
  readonly tokens: number;
  readonly chunks: number;
  readonly everywhere: number;
  /** Leading bytes that many prompts begin with. */
  readonly shared: number;
  /** How many endpoints are known to hold a beginning of the prompt. */
  readonly matches: number;
  readonly positions: number;
  readonly sloMet: number;
  readonly row: number;
  readonly matched: number;
}

export function questionFields({ exports: k }: AttachedKernel): QuestionFields {
  const offset = k.decisionOffset();
  const word = (field: number) => (offset + field) >>> 2;
  const double = (field: number) => (offset + field) >>> 3;
  return {
    cluster: word(k.QUESTION_CLUSTER),
    eligibility: word(k.QUESTION_MASK),
    policy: word(k.QUESTION_POLICY),
    percent: word(k.QUESTION_PERCENT),
    cacheWeight: word(k.QUESTION_CACHE_WEIGHT),
    requestWeight: word(k.QUESTION_REQUEST_WEIGHT),
    prefillWeight: word(k.QUESTION_PREFILL_WEIGHT),
    promptColumn: word(k.QUESTION_PROMPT_COLUMN),
    promptFloor: word(k.QUESTION_PROMPT_FLOOR),
    adapter: word(k.QUESTION_ADAPTER),
    adapterWeight: word(k.QUESTION_ADAPTER_WEIGHT),
    promptBytes: word(k.QUESTION_PROMPT_BYTES),
    model: word(k.QUESTION_MODEL),
    ttftSlo: word(k.QUESTION_TTFT_SLO),
    tpotSlo: word(k.QUESTION_TPOT_SLO),
    excluded: word(k.QUESTION_EXCLUDED),
    restricted: word(k.QUESTION_RESTRICTED),
    exclude: word(k.QUESTION_EXCLUDE),
    nowMs: double(k.QUESTION_NOW),
    deadlineMs: double(k.QUESTION_DEADLINE),
    band: word(k.QUESTION_BAND),
    tenant: word(k.QUESTION_TENANT),
    blocks: word(k.QUESTION_BLOCKS),
    tokens: word(k.QUESTION_TOKENS),
    chunks: word(k.QUESTION_CHUNKS),
    everywhere: word(k.QUESTION_EVERYWHERE),
    shared: word(k.QUESTION_SHARED),
    matches: word(k.QUESTION_MATCHES),
    positions: word(k.QUESTION_POSITIONS),
    sloMet: word(k.QUESTION_SLO_MET),
    row: word(k.QUESTION_ROW),
    matched: word(k.QUESTION_MATCHED),
  };
}
