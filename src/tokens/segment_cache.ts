// SPDX-License-Identifier: Apache-2.0
// Pieces of text and their tokens, those that were asked for last, within a bound.

/** What an entry costs beside its text and its tokens. */
const ENTRY_BYTES = 128;

export class SegmentCache {
  readonly #entries = new Map<string, Uint32Array>(); // in the order of their last use
  #bytes = 0;

  constructor(readonly maxBytes: number) {}

  get bytes(): number {
    return this.#bytes;
  }

  has(text: string): boolean {
    return this.#entries.has(text);
  }

  get(text: string): Uint32Array | undefined {
    const tokens = this.#entries.get(text);
    if (tokens === undefined) return undefined;
    this.#entries.delete(text);
    this.#entries.set(text, tokens);
    return tokens;
  }

  set(text: string, tokens: Uint32Array): void {
    const bytes = bytesOf(text, tokens);
    if (bytes > this.maxBytes) return;
    this.#entries.set(text, tokens);
    this.#bytes += bytes;
    for (const [oldest, its] of this.#entries) {
      if (this.#bytes <= this.maxBytes) break;
      this.#entries.delete(oldest);
      this.#bytes -= bytesOf(oldest, its);
    }
  }
}

function bytesOf(text: string, tokens: Uint32Array): number {
  return ENTRY_BYTES + 2 * text.length + 4 * tokens.length;
}
