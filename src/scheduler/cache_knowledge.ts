// SPDX-License-Identifier: Apache-2.0
// What is known of the prompts that engines hold in their caches: presumed from the prompts that were sent to them, by prefix
// hashes of their text; or, of engines that tell it, known by blocks of the prompt's tokens, if there is a tokenizer. Whoever
// decides asks for the prompt that is up; the answer is told in bytes.

import type { AttachedKernel } from "../../wasm/kernel.ts";
import { utf8Length } from "../base/utf8.ts";
import { questionFields } from "../tables/question.ts";
import { SaveRingWriter } from "../tables/save_ring.ts";
import type { AskedBlocks, PromptBlocks } from "../tokens/prompt_tokens.ts";
import type { Placement } from "./placement.ts";

/** The hashes of a prompt and its length. */
export interface HashedPrompt {
  readonly bytes: number;
  /** Number of prefix hashes; 0 when the policy takes no notice of caches. */
  readonly chunks: number;
  /** The hashes as pairs of words, in a buffer that may be longer and goes back with `retire`. */
  readonly hashes: Int32Array;
  /** Whether an endpoint was known to hold a beginning of it. */
  readonly known: boolean;
  /** Its blocks of tokens, as soon as they are known. */
  asked?: AskedBlocks;
  /** Those that were said to be computed where it was sent. */
  marked?: PromptBlocks;
}

export interface CacheKnowledge {
  /**
   * The keys of a prompt, which is up for decision then: who holds how much of it is known to the kernel.
   * @param prompt Its text, or how many bytes of it stand in the kernel's scratch.
   */
  keysOf(prompt: string | number, placement: Placement): HashedPrompt;
  /** Puts a prompt up again. */
  match(prompt: HashedPrompt, placement: Placement): void;
  /** Records that an endpoint holds a prompt that nobody uses there right now. */
  remember(prompt: HashedPrompt, salt: number, row: number): void;
  /** A request with this prompt is sent to an endpoint and uses its chunks there. Returns what `unpin` takes. */
  pin(prompt: HashedPrompt, salt: number, row: number): number;
  /** The request is over: its chunks are no longer in use. */
  unpin(prompt: HashedPrompt, pinned: number, salt: number, row: number): void;
  /** Takes the keys back when nobody needs them any more. */
  retire(prompt: HashedPrompt): void;
  /** Prefixes that were not handed on to the metadata center. */
  readonly savesDropped: number;
}

const NO_HASHES = new Int32Array(0);
/** Hash buffers kept for reuse, by power of two of their length. */
const KEPT_BUFFERS = 256;

/** Knowledge by the text of prompts, in the kernel's index. */
export class PresumedCaches implements CacheKnowledge {
  readonly #kernel: AttachedKernel;
  readonly #text: Uint8Array;
  readonly #words: Int32Array;
  readonly #chunksWord: number;
  readonly #clusterWord: number;
  readonly #matchesWord: number;
  readonly #everywhereWord: number;
  readonly #hashWord: number;
  readonly #blocksWord: number;
  readonly #tokensWord: number;
  readonly #promptBytesWord: number;
  readonly #keys: Uint32Array;
  readonly #encoder = new TextEncoder();
  readonly #ring: SaveRingWriter;
  readonly #buffers: Int32Array[][] = [];

  constructor(kernel: AttachedKernel) {
    const k = kernel.exports;
    this.#kernel = kernel;
    this.#ring = new SaveRingWriter(kernel);
    this.#words = new Int32Array(kernel.buffer);
    this.#text = new Uint8Array(kernel.buffer, k.textOffset(), this.#words[k.HEADER_CHUNKS] * k.CHUNK_BYTES);
    const question = questionFields(kernel);
    this.#chunksWord = question.chunks;
    this.#clusterWord = question.cluster;
    this.#matchesWord = question.matches;
    this.#everywhereWord = question.everywhere;
    this.#hashWord = k.hashOffset() >>> 2;
    this.#blocksWord = question.blocks;
    this.#tokensWord = question.tokens;
    this.#promptBytesWord = question.promptBytes;
    this.#keys = new Uint32Array(kernel.buffer, k.blockKeysOffset(), 2 * k.blockCapacity());
  }

  keysOf(prompt: string | number, placement: Placement): HashedPrompt {
    const k = this.#kernel.exports;
    let written: number;
    let bytes: number;
    if (typeof prompt === "number") written = bytes = prompt;
    else {
      const encoded = this.#encoder.encodeInto(prompt, this.#text);
      written = encoded.written;
      bytes = written + (encoded.read === prompt.length ? 0 : utf8Length(prompt, encoded.read));
    }
    if (!placement.policy.cacheAware) {
      k.lookUpNothing();
      return { bytes, chunks: 0, hashes: NO_HASHES, known: false };
    }
    this.#words[this.#clusterWord] = placement.cluster;
    const chunks = k.lookUp(written, placement.salt);
    const hashes = this.#takeBuffer(chunks);
    for (let i = 0; i < 2 * chunks; i++) hashes[i] = this.#words[this.#hashWord + i];
    const known = this.#words[this.#matchesWord] > 0 || this.#words[this.#everywhereWord] > 0;
    return { bytes, chunks, hashes, known };
  }

  // A fresh typed array costs more than the copy into it, most of it in the garbage collector.
  #takeBuffer(chunks: number): Int32Array {
    const size = Math.max(5, 32 - Math.clz32(Math.max(0, 2 * chunks - 1)));
    return this.#buffers[size]?.pop() ?? new Int32Array(2 ** size);
  }

  retire({ hashes }: HashedPrompt): void {
    if (hashes.length === 0) return;
    const kept = this.#buffers[31 - Math.clz32(hashes.length)] ??= [];
    if (kept.length < KEPT_BUFFERS) kept.push(hashes);
  }

  #restore({ chunks, hashes }: HashedPrompt): void {
    for (let i = 0; i < 2 * chunks; i++) this.#words[this.#hashWord + i] = hashes[i];
  }

  match(prompt: HashedPrompt, { cluster, salt }: Placement): void {
    const k = this.#kernel.exports;
    k.lookUpNothing();
    if (prompt.chunks === 0) return;
    this.#restore(prompt);
    this.#words[this.#chunksWord] = prompt.chunks;
    this.#words[this.#clusterWord] = cluster;
    this.#putBlocks(prompt);
    k.lookUpAgain(prompt.chunks, salt);
  }

  // What engines tell is compared with the prompt's blocks, if its tokens are known.
  #putBlocks({ bytes, asked }: HashedPrompt): void {
    if (asked?.blocks === undefined) return;
    this.#words[this.#blocksWord] = this.#writeKeys(asked.blocks);
    this.#words[this.#tokensWord] = asked.blocks.tokens;
    this.#words[this.#promptBytesWord] = bytes;
  }

  // Returns how many fit.
  #writeKeys({ keys }: PromptBlocks): number {
    const words = Math.min(keys.length, this.#keys.length);
    this.#keys.set(words === keys.length ? keys : keys.subarray(0, words));
    return words >>> 1;
  }

  remember(prompt: HashedPrompt, salt: number, row: number): void {
    if (prompt.chunks === 0) return;
    this.#restore(prompt);
    this.#kernel.exports.indexInsertScratch(prompt.chunks, salt, row);
    this.#ring.write(row, salt, prompt.chunks, prompt.hashes);
  }

  pin(prompt: HashedPrompt, salt: number, row: number): number {
    if (prompt.chunks === 0) return 0;
    this.#restore(prompt);
    const k = this.#kernel.exports;
    const pinned = k.indexPinScratch(prompt.chunks, salt, row);
    prompt.marked = prompt.asked?.blocks;
    if (prompt.marked !== undefined) k.blocksComputed(this.#writeKeys(prompt.marked), row);
    this.#ring.write(row, salt, prompt.chunks, prompt.hashes);
    return pinned;
  }

  unpin(prompt: HashedPrompt, pinned: number, salt: number, row: number): void {
    if (prompt.chunks === 0) return;
    this.#restore(prompt);
    const k = this.#kernel.exports;
    k.indexUnpinScratch(prompt.chunks, pinned, salt, row);
    if (prompt.marked !== undefined) k.blocksNotComputed(this.#writeKeys(prompt.marked), row);
    prompt.marked = undefined;
  }

  get savesDropped(): number {
    return this.#ring.dropped;
  }
}
