// SPDX-License-Identifier: Apache-2.0
// Token ids of prompts, as an engine with the same files has them. A tokenizer cuts a text at its special tokens first, and
// what lies between two of them does not depend on anything else: so what a conversation's last turns were tokenised to is
// found again, and only what is new is tokenised.

import { Tokenizer } from "@huggingface/tokenizers";
import { PromptRenderer, type TokenizerConfig } from "./prompt_renderer.ts";
import { SegmentCache } from "./segment_cache.ts";

interface AddedToken {
  readonly id: number;
  readonly content: string;
  readonly lstrip?: boolean;
  readonly rstrip?: boolean;
  readonly single_word?: boolean;
  readonly normalized?: boolean;
}

interface TokenizerFile {
  readonly added_tokens?: readonly AddedToken[];
}

/** What each tokenizer is asked to see whether it takes pieces alone for what they are together. */
const PROBES = [" leading space", "no space", "\n\nlines \n", "汉字 and é", "x=1;\ty", "  two", "'s 12345"];

export interface TokenizerFiles {
  readonly tokenizer: unknown;
  readonly config: TokenizerConfig;
  readonly template?: string;
}

export class PromptTokenizer {
  readonly #tokenizer: Tokenizer;
  readonly #renderer: PromptRenderer;
  readonly #special: Map<string, number>;
  /** Cuts at special tokens; undefined where pieces must not be taken alone. */
  readonly #cut: RegExp | undefined;

  /** Throws Error when the files are not those of a tokenizer that is known. */
  constructor({ tokenizer, config, template }: TokenizerFiles, readonly cache: SegmentCache) {
    this.#tokenizer = new Tokenizer(tokenizer as object, config as object);
    this.#renderer = new PromptRenderer(config, template);
    const added = (tokenizer as TokenizerFile).added_tokens ?? [];
    this.#special = new Map(added.map(({ content, id }) => [content, id]));
    const plain = added.every(({ lstrip, rstrip, single_word }) => !lstrip && !rstrip && !single_word);
    if (added.length > 0 && plain) {
      this.#cut = cutting(added.map(({ content }) => content));
      if (!PROBES.every((probe) => this.#takesPieces(probe))) this.#cut = undefined;
    }
  }

  /** Whether conversations are tokenised piece by piece. */
  get incremental(): boolean {
    return this.#cut !== undefined;
  }

  /**
   * The tokens of a request's prompt; undefined where they cannot be told, e.g. with images.
   * @param begins Is told how many characters have to be tokenised, before they are.
   */
  tokensOf(body: Record<string, unknown>, begins?: (characters: number) => void): Uint32Array | undefined {
    const { prompt } = body;
    if (Array.isArray(prompt) && prompt.length > 0 && prompt.every((token) => Number.isInteger(token))) {
      return Uint32Array.from(prompt);
    }
    const rendered = this.#renderer.render(body);
    if (rendered === undefined) return undefined;
    const { text, special } = rendered;
    if (special || this.#cut === undefined) {
      begins?.(text.length);
      return Uint32Array.from(this.#encode(text, special));
    }
    // Every other one is a special token.
    const pieces = text.split(this.#cut);
    if (begins !== undefined) {
      let characters = 0;
      for (let i = 0; i < pieces.length; i += 2) if (!this.cache.has(pieces[i])) characters += pieces[i].length;
      begins(characters);
    }
    return this.#inPieces(pieces);
  }

  #inPieces(texts: readonly string[]): Uint32Array {
    const pieces: (Uint32Array | number)[] = [];
    let length = 0;
    texts.forEach((piece, i) => {
      if (piece === "") return;
      const tokens = i % 2 === 1 ? this.#special.get(piece)! : this.#segment(piece);
      pieces.push(tokens);
      length += typeof tokens === "number" ? 1 : tokens.length;
    });
    const all = new Uint32Array(length);
    let at = 0;
    for (const piece of pieces) {
      if (typeof piece === "number") all[at++] = piece;
      else {
        all.set(piece, at);
        at += piece.length;
      }
    }
    return all;
  }

  #segment(text: string): Uint32Array {
    const known = this.cache.get(text);
    if (known !== undefined) return known;
    const tokens = Uint32Array.from(this.#encode(text, false));
    this.cache.set(text, tokens);
    return tokens;
  }

  #encode(text: string, special: boolean): number[] {
    return this.#tokenizer.encode(text, { add_special_tokens: special }).ids;
  }

  // A piece behind a special token, before one and alone has the same tokens.
  #takesPieces(probe: string): boolean {
    const [[token, id]] = this.#special;
    const alone = this.#encode(probe, false);
    return `${this.#encode(`${probe}${token}${probe}`, false)}` === `${[...alone, id, ...alone]}`;
  }
}

// A common beginning stands before the choice: what does not have it is passed over much faster.
function cutting(tokens: string[]): RegExp {
  const longestFirst = tokens.toSorted((a, b) => b.length - a.length);
  let common = tokens[0];
  for (const token of tokens) while (!token.startsWith(common)) common = common.slice(0, -1);
  const ends = longestFirst.map((token) => escaped(token.slice(common.length)));
  return new RegExp(`(${escaped(common)}(?:${ends.join("|")}))`);
}

function escaped(text: string): string {
  return text.replace(/[.*+?^${}()|[\]\\\/]/g, "\\$&");
}
