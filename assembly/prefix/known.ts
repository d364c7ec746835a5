// SPDX-License-Identifier: Apache-2.0
// How much of a prompt an endpoint is taken to hold, and how much it has to compute, when so many of its first bytes were
// matched there. Hashes cannot see into the chunk in which the cached prefix ends: it is taken as cached too.

import { header } from "../memory/header";
import { CHUNK_BYTES } from "../memory/prefix";

@inline
export function knownOf(promptBytes: u32, matched: u32): u32 {
  return matched == 0 ? 0 : min(promptBytes, matched + CHUNK_BYTES);
}

@inline
export function uncachedOf(promptBytes: u32, matched: u32): u32 {
  return max(promptBytes - knownOf(promptBytes, matched), header().minWork);
}
