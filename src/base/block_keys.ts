// SPDX-License-Identifier: Apache-2.0
// Names of blocks of tokens that do not depend on the engine: a key of 64 bits stands for all tokens of a prompt up to the
// end of a block of 16, and for what else its content depends on. Two lanes of MurmurHash3's kind, each with constants of
// its own, so that what collides in one does not in the other.

/** Tokens to one key; KEY_TOKENS of the kernel. */
export const KEY_TOKENS = 16;

/** A key, or the state from which the next one is made: low and high word. */
export interface KeyState {
  lo: number;
  hi: number;
}

/** What keys begin with: those of different clusters, adapters are never alike. */
export function rootKey(cluster: number, lora: string): KeyState {
  const state = { lo: 0x2545f491 ^ cluster, hi: 0x9e3779b9 };
  mixText(state, lora);
  mix(state, END_OF_ROOT);
  return state;
}

/** Takes what a block depends on beside its tokens into the state before its own key; nothing where that is empty. */
export function mixText(state: KeyState, text: string): void {
  if (text === "") return;
  for (let i = 0; i < text.length; i++) mix(state, text.charCodeAt(i) + 0x10000);
  mix(state, text.length + END_OF_TEXT);
}

// Beyond every character: an adapter's name is none of a salt's beginning.
const END_OF_ROOT = 0x20000;
const END_OF_TEXT = 0x30000;

function mix(state: KeyState, value: number): void {
  state.lo = lane(state.lo, value, 0xcc9e2d51, 0x1b873593);
  state.hi = lane(state.hi, value, 0x239b961b, 0xab0e9789);
}

function lane(hash: number, value: number, c1: number, c2: number): number {
  let k = Math.imul(value, c1);
  k = Math.imul(k << 15 | k >>> 17, c2);
  const h = hash ^ k;
  return (Math.imul(h << 13 | h >>> 19, 5) + 0xe6546b64) | 0;
}

function final(hash: number): number {
  let h = Math.imul(hash ^ hash >>> 16, 0x85ebca6b);
  h = Math.imul(h ^ h >>> 13, 0xc2b2ae35);
  return (h ^ h >>> 16) >>> 0;
}

/** Takes KEY_TOKENS tokens from `from` on into the state, and writes the key that it is then at `at` of `keys`. */
export function nextKey(state: KeyState, tokens: ArrayLike<number>, from: number, keys: Uint32Array, at: number): void {
  for (let i = from; i < from + KEY_TOKENS; i++) mix(state, tokens[i]);
  const lo = final(state.lo ^ state.hi);
  const hi = final(state.hi);
  state.lo = lo;
  state.hi = hi;
  keys[at] = lo === 0 && hi === 0 ? 1 : lo; // 0 is nobody's
  keys[at + 1] = hi;
}

/** The keys of a prompt: pairs of low and high word, one for each KEY_TOKENS tokens. `salt` is part of its first block. */
export function keysOfTokens(tokens: ArrayLike<number>, root: KeyState, salt = ""): Uint32Array<ArrayBuffer> {
  const count = Math.floor(tokens.length / KEY_TOKENS);
  const keys = new Uint32Array(2 * count);
  const state = { ...root };
  mixText(state, salt);
  for (let i = 0; i < count; i++) nextKey(state, tokens, i * KEY_TOKENS, keys, 2 * i);
  return keys;
}
