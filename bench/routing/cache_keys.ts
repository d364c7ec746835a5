// SPDX-License-Identifier: Apache-2.0
// A trace's prompts in the blocks of an engine's cache. Traces tell which blocks of 512 tokens prompts share; engines whose
// blocks are smaller see each of them as several, and of the last one only what the prompt fills.

import { BLOCK_TOKENS, type TraceRequest } from "./trace.ts";

export interface CacheKeys {
  /** Keys of the prompt's blocks of so many tokens, a part of 512; those of 512 are the trace's own. */
  of(blockTokens: number): readonly number[];
}

/** Made where they are needed, and given up with the job: a long prompt has thousands. */
export function cacheKeys({ blocks, inputTokens }: Pick<TraceRequest, "blocks" | "inputTokens">): CacheKeys {
  let made: number[] | undefined;
  return {
    of(blockTokens) {
      if (blockTokens === BLOCK_TOKENS) return blocks;
      const parts = BLOCK_TOKENS / blockTokens;
      const full = Math.min(blocks.length * parts, Math.floor(inputTokens / blockTokens));
      if (made?.length !== full) {
        made = Array.from({ length: full }, (_, i) => blocks[Math.floor(i / parts)] * parts + i % parts);
      }
      return made;
    },
  };
}
