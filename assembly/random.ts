// SPDX-License-Identifier: Apache-2.0
// SplitMix64: one state per instance, seeded by the host, so that every decision can be replayed.

let state: u64 = 0;

export function seedRandom(low: u32, high: u32): void {
  state = (<u64>high << 32) | low;
}

function next(): u64 {
  state += 0x9e3779b97f4a7c15;
  let z = state;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

/** A uniform integer below n, n > 0. The bias of the multiply-shift is below n / 2^32. */
export function below(n: u32): u32 {
  return <u32>(((next() >> 32) * <u64>n) >> 32);
}
