// SPDX-License-Identifier: Apache-2.0
// How much of a prompt an endpoint is taken to hold, and how much it has to compute, when so many of its first bytes were
// matched there. Hashes cannot see into the chunk in which the cached prefix ends: it is taken as cached too.

import { header } from "../memory/header";
import { CHUNK_BYTES } from "../memory/prefix";

/** Of what an engine told that it holds: there is no such chunk. */
export const EXACT: u32 = 1 << 30;

/** A match without its mark. */
@inline
export function bytesOf(matched: u32): u32 {
  return matched & (EXACT - 1);
}

@inline
export function knownOf(promptBytes: u32, matched: u32): u32 {
  if ((matched & EXACT) != 0) return min(promptBytes, bytesOf(matched));
  return matched == 0 ? 0 : min(promptBytes, matched + CHUNK_BYTES);
}

/** Of so many bytes to be computed of a prompt, those that are worth to be computed where they are in use already. */
@inline
export function pricedOf(work: u32, promptBytes: u32, hot: u32): u32 {
  return min(work, max(promptBytes - min(promptBytes, hot), header().minWork));
}

/** What a match counts for where a prompt goes: what is shared by many draws nobody. */
@inline
export function drawOf(matched: u32, shared: u32): u32 {
  return bytesOf(matched) >= shared ? matched : shared;
}

@inline
export function uncachedOf(promptBytes: u32, matched: u32): u32 {
  return max(promptBytes - knownOf(promptBytes, matched), header().minWork);
}
