// SPDX-License-Identifier: Apache-2.0
// Prompts of about so many tokens, equal where they are to be equal.

import type { Random } from "../base/random.ts";
import { BLOCK_TOKENS, type TraceRequest } from "./trace.ts";

/** English has about so many characters to a token. */
const CHARACTERS = 4;

const WORDS =
  "the of and to in is that for it as was with be by on not his but at are this have from or had an they which one you " +
  "were all her she there would their we him been has when who will no more if out so up said what its about than into";
const VOCABULARY = WORDS.split(" ");

/** A text of about so many tokens that no other draw gives. */
export function freshText(random: Random, tokens: number): string {
  let text = `${random.below(2 ** 31).toString(36)}`;
  while (text.length < tokens * CHARACTERS) text += ` ${VOCABULARY[random.below(VOCABULARY.length)]}`;
  return text.slice(0, Math.max(1, tokens * CHARACTERS));
}

/** The text of a block, the same for the same id. */
function blockText(id: number, tokens: number): string {
  const word = `${(id * 2_654_435_761 >>> 0).toString(16).padStart(8, "0")}${id.toString(16).padStart(7, "0")} `;
  return word.repeat(Math.ceil(tokens / CHARACTERS)).slice(0, CHARACTERS * tokens);
}

/** The prompt of a trace's request: equal blocks are equal text. */
export function traceText({ blocks, inputTokens }: Pick<TraceRequest, "blocks" | "inputTokens">): string {
  return blocks.map((id, i) => blockText(id, Math.min(BLOCK_TOKENS, inputTokens - i * BLOCK_TOKENS))).join("");
}
