// SPDX-License-Identifier: Apache-2.0
// Text to tokens and back for an engine without a model: four bytes are a token, output is words of a fixed list.

import type { BlockKey } from "./kv_cache.ts";

const BYTES_PER_TOKEN = 4;
const WORDS = "the engine reads a prompt and answers with words that mean little but arrive like tokens do".split(" ");

/** Number of tokens and the keys of the full blocks of a prompt; each key stands for the whole prefix up to its end. */
export function tokenize(text: string, blockTokens: number): { tokens: number; blocks: BlockKey[] } {
  const bytes = new TextEncoder().encode(text);
  const tokens = Math.max(1, Math.ceil(bytes.length / BYTES_PER_TOKEN));
  const blockBytes = blockTokens * BYTES_PER_TOKEN;
  const blocks: BlockKey[] = [];
  // Two FNV-like lanes of 32 bits make a key of 53.
  let a = 0x811c9dc5;
  let b = 0x01000193;
  for (let i = 0; i + blockBytes <= bytes.length; i += blockBytes) {
    for (let k = i; k < i + blockBytes; k++) {
      a = Math.imul(a ^ bytes[k], 0x01000193);
      b = Math.imul(b ^ bytes[k], 0x85ebca6b) + 1 | 0;
    }
    blocks.push((a >>> 0) * 0x200000 + ((b >>> 0) & 0x1fffff));
  }
  return { tokens, blocks };
}

/** The n-th word of an answer, with the space before it. */
export function word(seed: number, n: number): string {
  return `${n === 0 ? "" : " "}${WORDS[(seed + n * 7) % WORDS.length]}`;
}
