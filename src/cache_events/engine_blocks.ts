// SPDX-License-Identifier: Apache-2.0
// What one engine holds, by its own events, and the same in the index by keys that prompts have too. A removal names blocks
// by the engine's hashes only, so these are remembered with their keys. An engine may have a block twice, and removes it as
// often.
//
// An engine's block is several keys' tokens, or a part of one's. Then the block in which a key's tokens end stands for the
// key: engines give up the end of a prompt first.

import { KEY_TOKENS, type KeyState, mixText, nextKey, rootKey } from "../base/block_keys.ts";
import type { BlockIndex } from "../tables/block_index.ts";
import type { BlocksRemoved, BlocksStored, CacheEvent } from "./events.ts";
import { BlockRecords } from "./block_records.ts";

/** Whether engines' blocks of so many tokens can be named by keys. */
export function fitsKeys(blockTokens: number): boolean {
  return blockTokens % KEY_TOKENS === 0 || KEY_TOKENS % blockTokens === 0;
}

/** A record's words: its keys; whether the index has them; the state after it, how many tokens wait for their key, and which. */
const HELD = 1;

export class EngineBlocks {
  /** Tokens a block of the engine; 0 until it has told. */
  blockTokens = 0;
  /** Blocks whose prompt's beginning is not known. */
  orphans = 0;
  /** Blocks that were taken in. */
  added = 0;
  /** How often its blocks became others in size, which ends what was known. */
  resized = 0;
  #records: BlockRecords | undefined;
  /** Keys of a block, or 1 of which several blocks are part. */
  #keys = 1;
  readonly #groups = new Set<number>();
  readonly #halves = new Uint32Array(2);
  readonly #half = new BigUint64Array(this.#halves.buffer);
  readonly #state: KeyState = { lo: 0, hi: 0 };
  #pending = new Uint32Array(256);

  /** @param row The endpoint's. */
  constructor(readonly index: BlockIndex, readonly row: number, readonly cluster: number) {}

  /** Blocks that it holds. */
  get size(): number {
    return this.#records?.size ?? 0;
  }

  apply(event: CacheEvent): void {
    if (event.kind === "stored") this.#store(event);
    else if (event.kind === "removed") this.#remove(event);
    else this.forget();
  }

  /** It holds nothing that is known. */
  forget(): void {
    const records = this.#records;
    if (records === undefined) return;
    const keys = new Uint32Array(2 * this.#keys * 1_024);
    let count = 0;
    for (const place of records.places()) {
      const words = records.words(place);
      if (words[2 * this.#keys] !== HELD) continue;
      keys.set(words.subarray(0, 2 * this.#keys), 2 * count);
      count += this.#keys;
      if (2 * count < keys.length) continue;
      this.index.drop(this.row, keys, count);
      count = 0;
    }
    this.index.drop(this.row, keys, count);
    this.#records = undefined;
  }

  #recordsFor(blockTokens: number): BlockRecords {
    if (this.blockTokens !== blockTokens) {
      if (this.blockTokens !== 0) this.resized++;
      this.forget();
      this.blockTokens = blockTokens;
      this.#keys = Math.max(1, blockTokens / KEY_TOKENS);
    }
    return this.#records ??= new BlockRecords(2 * this.#keys + 1 + (blockTokens < KEY_TOKENS ? 3 + KEY_TOKENS : 0));
  }

  #store(event: BlocksStored): void {
    const { hashes, parent, blockTokens, extras } = event;
    if (!event.prefix || !fitsKeys(blockTokens)) return;
    this.#groups.add(event.group);
    const records = this.#recordsFor(blockTokens);
    if (blockTokens < KEY_TOKENS) return this.#storeParts(event, records);
    const state = this.#state;
    if (parent === undefined) Object.assign(state, rootKey(this.cluster, event.lora));
    else {
      const place = this.#find(records, parent);
      if (place < 0) return void (this.orphans += hashes.length);
      const words = records.words(place);
      state.lo = words[2 * this.#keys - 2];
      state.hi = words[2 * this.#keys - 1];
    }
    const count = hashes.length * this.#keys;
    if (this.#pending.length < 2 * count) this.#pending = new Uint32Array(4 * count);
    const keys = this.#pending;
    const places: number[] = [];
    let fresh = 0;
    for (let i = 0; i < hashes.length; i++) {
      const at = 2 * fresh * this.#keys;
      if (extras !== undefined) mixText(state, extras[i] ?? "");
      for (let k = 0; k < this.#keys; k++) {
        nextKey(state, event.tokens, i * blockTokens + k * KEY_TOKENS, keys, at + 2 * k);
      }
      const known = this.#find(records, hashes[i]);
      if (known >= 0) records.retain(known);
      else {
        const place = records.add(this.#halves[0], this.#halves[1]);
        const words = records.words(place);
        words.set(keys.subarray(at, at + 2 * this.#keys));
        words[2 * this.#keys] = HELD;
        places.push(i);
        fresh++;
      }
    }
    this.added += fresh;
    const lost = this.index.lost;
    this.index.hold(this.row, keys, fresh * this.#keys);
    if (this.index.lost > lost) this.#giveBack(records, places.map((i) => hashes[i]), keys);
  }

  // Blocks for which the index has no place are remembered as not held; of those that got one in part, that part goes.
  #giveBack(records: BlockRecords, hashes: bigint[], keys: Uint32Array): void {
    const width = 2 * this.#keys;
    for (let i = 0; i < hashes.length; i++) {
      const its = keys.subarray(i * width, (i + 1) * width);
      let whole = true;
      for (let k = 0; k < width; k += 2) if (its[k] === 0 && its[k + 1] === 0) whole = false;
      if (whole) continue;
      this.index.drop(this.row, its, this.#keys);
      records.words(this.#find(records, hashes[i]))[width] = 0;
    }
  }

  // Blocks shorter than a key's tokens: the state goes on with those that wait for their key.
  #storeParts({ hashes, parent, tokens, blockTokens, lora, extras }: BlocksStored, records: BlockRecords): void {
    const state = this.#state;
    const waiting = new Uint32Array(KEY_TOKENS);
    let waits = 0;
    if (parent === undefined) Object.assign(state, rootKey(this.cluster, lora));
    else {
      const place = this.#find(records, parent);
      if (place < 0) return void (this.orphans += hashes.length);
      const words = records.words(place);
      [state.lo, state.hi, waits] = words.subarray(3, 6);
      waiting.set(words.subarray(6));
    }
    const key = new Uint32Array(2);
    for (let i = 0; i < hashes.length; i++) {
      if (extras !== undefined) mixText(state, extras[i] ?? "");
      for (let t = 0; t < blockTokens; t++) waiting[waits++] = tokens[i * blockTokens + t];
      const ends = waits === KEY_TOKENS;
      if (ends) {
        nextKey(state, waiting, 0, key, 0);
        waits = 0;
      }
      const known = this.#find(records, hashes[i]);
      if (known >= 0) {
        records.retain(known);
        continue;
      }
      this.added++;
      const words = records.words(records.add(this.#halves[0], this.#halves[1]));
      words[3] = state.lo;
      words[4] = state.hi;
      words[5] = waits;
      words.set(waiting, 6);
      if (!ends) continue;
      words.set(key);
      const lost = this.index.lost;
      this.index.hold(this.row, key, 1);
      if (this.index.lost === lost) words[2] = HELD;
    }
  }

  #remove({ hashes, group }: BlocksRemoved): void {
    const records = this.#records;
    if (records === undefined || !this.#groups.has(group)) return;
    const width = 2 * this.#keys;
    if (this.#pending.length < hashes.length * width) this.#pending = new Uint32Array(2 * hashes.length * width);
    const keys = this.#pending;
    let count = 0;
    for (const hash of hashes) {
      const place = this.#find(records, hash);
      if (place < 0 || !records.release(place)) continue;
      const words = records.words(place);
      if (words[width] === HELD) {
        keys.set(words.subarray(0, width), 2 * count);
        count += this.#keys;
      }
      records.remove(place);
    }
    this.index.drop(this.row, keys, count);
  }

  #find(records: BlockRecords, hash: bigint): number {
    this.#half[0] = hash;
    return records.find(this.#halves[0], this.#halves[1]);
  }
}
