// SPDX-License-Identifier: Apache-2.0
// The names that a chat's body is read by.

// Bits of the fields that have been seen.
export const MODEL: u32 = 1;
export const MESSAGES: u32 = 2;
export const STREAM: u32 = 4;
export const MAX_TOKENS: u32 = 8;
export const MAX_COMPLETION: u32 = 16;
export const CHOICES: u32 = 32;
export const OPTIONS: u32 = 64;
export const OTHER: u32 = 128; // one that is not taken unless it is null
export const TOOLS: u32 = 256;
export const IGNORED: u32 = 0;

// Whether a name is a word of `size` bytes, which stand in eights, the first byte lowest. Texts cannot be written here: they
// would be data in a memory that is everybody's.
@inline
export function isWord(at: usize, length: usize, size: usize, first: u64, second: u64 = 0, third: u64 = 0): bool {
  if (length != size) return false;
  if (size <= 8) return (load<u64>(at) & maskOf(size)) == first;
  if (load<u64>(at) != first) return false;
  if (size <= 16) return (load<u64>(at, 8) & maskOf(size - 8)) == second;
  return load<u64>(at, 8) == second && (load<u64>(at, 16) & maskOf(size - 16)) == third;
}

// The lowest bytes of eight.
@inline
function maskOf(bytes: usize): u64 {
  return bytes == 8 ? u64.MAX_VALUE : (<u64>1 << (<u64>bytes << 3)) - 1;
}

// Which field of a request a name is.
export function fieldOf(at: usize, length: usize): u32 {
  const first = load<u8>(at);
  if (first == 109) { // m
    if (/* model */ isWord(at, length, 5, 0x6c65646f6d)) return MODEL;
    if (/* messages */ isWord(at, length, 8, 0x736567617373656d)) return MESSAGES;
    if (/* max_tokens */ isWord(at, length, 10, 0x656b6f745f78616d, 0x736e)) return MAX_TOKENS;
    if (/* max_completion_tokens */ isWord(at, length, 21, 0x706d6f635f78616d, 0x745f6e6f6974656c, 0x736e656b6f)) return MAX_COMPLETION;
    return /* max_output_tokens */ isWord(at, length, 17, 0x7074756f5f78616d, 0x6e656b6f745f7475, 0x73) ? OTHER : IGNORED;
  }
  if (first == 115) { // s
    if (/* stream */ isWord(at, length, 6, 0x6d6165727473)) return STREAM;
    return /* stream_options */ isWord(at, length, 14, 0x6f5f6d6165727473, 0x736e6f697470) ? OPTIONS : IGNORED;
  }
  if (first == 110) return /* n */ isWord(at, length, 1, 0x6e) ? CHOICES : IGNORED;
  if (first == 116) return /* tools */ isWord(at, length, 5, 0x736c6f6f74) ? TOOLS : IGNORED;
  return first == 99 && /* cache_salt */ isWord(at, length, 10, 0x61735f6568636163, 0x746c) ? OTHER : IGNORED;
}

// Fields of a message that no chat template sees.
export function isUnseen(name: usize, length: usize): bool {
  return /* cache_control */ isWord(name, length, 13, 0x6f635f6568636163, 0x6c6f72746e) || /* annotations */ isWord(name, length, 11, 0x697461746f6e6e61, 0x736e6f) ||
    /* refusal */ isWord(name, length, 7, 0x6c617375666572) || /* logprobs */ isWord(name, length, 8, 0x73626f7270676f6c);
}

// "text", "input_text" or "output_text".
export function isTextType(at: usize): bool {
  return /* text */ isWord(at, 6, 6, 0x227478657422) || /* input_text */ isWord(at, 12, 12, 0x745f7475706e6922, 0x22747865) || /* output_text */ isWord(at, 13, 13, 0x5f74757074756f22, 0x2274786574);
}
