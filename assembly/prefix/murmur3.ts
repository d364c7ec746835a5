// SPDX-License-Identifier: Apache-2.0
// MurmurHash3 x64_128, seed 0, as a running hash. The two 64-bit states live in globals; `absorb` takes whole 16-byte
// blocks, `peek` returns the first half of the hash of everything absorbed plus a tail of 0 to 15 bytes, without
// disturbing the state, so that one pass over a prompt yields the hash of each of its prefixes.

const C1: u64 = 0x87c37b91114253d5;
const C2: u64 = 0x4cf5ad432745937f;

let h1: u64 = 0;
let h2: u64 = 0;

export function reset(): void {
  h1 = 0;
  h2 = 0;
}

/** Absorbs `blocks` blocks of 16 bytes. */
export function absorb(at: usize, blocks: u32): void {
  let a = h1;
  let b = h2;
  const end = at + (<usize>blocks << 4);
  for (; at < end; at += 16) {
    a ^= rotl<u64>(load<u64>(at) * C1, 31) * C2;
    a = (rotl<u64>(a, 27) + b) * 5 + 0x52dce729;
    b ^= rotl<u64>(load<u64>(at, 8) * C2, 33) * C1;
    b = (rotl<u64>(b, 31) + a) * 5 + 0x38495ab5;
  }
  h1 = a;
  h2 = b;
}

@inline
function finalMix(k: u64): u64 {
  k ^= k >> 33;
  k *= 0xff51afd7ed558ccd;
  k ^= k >> 33;
  k *= 0xc4ceb9fe1a85ec53;
  return k ^ (k >> 33);
}

/** The second half of the hash that `peek` last returned the first half of. */
export let second: u64 = 0;

/** The hash, first half, of what was absorbed followed by `tail` (0 to 15) bytes at `at`; `total` is the whole length. */
export function peek(at: usize, tail: u32, total: u64): u64 {
  let a = h1;
  let b = h2;
  if (tail > 8) {
    let k: u64 = 0;
    for (let i = tail; i > 8; i--) k = (k << 8) | load<u8>(at + i - 1);
    b ^= rotl<u64>(k * C2, 33) * C1;
  }
  if (tail > 0) {
    let k: u64 = 0;
    for (let i = min<u32>(tail, 8); i > 0; i--) k = (k << 8) | load<u8>(at + i - 1);
    a ^= rotl<u64>(k * C1, 31) * C2;
  }
  a ^= total;
  b ^= total;
  a += b;
  b += a;
  a = finalMix(a);
  b = finalMix(b);
  a += b;
  second = a + b;
  return a;
}
