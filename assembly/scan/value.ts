// SPDX-License-Identifier: Apache-2.0
// Values of JSON that nothing is taken from: skipped, and held to the grammar all the same. Every function returns the
// address behind the value, or 0 for what is none.

import { skipString } from "./text";

/** Deepest nesting that is followed. */
const MAX_DEPTH: u32 = 64;

@inline
function isSpace(byte: u32): bool {
  return byte == 32 || byte == 10 || byte == 13 || byte == 9;
}

@inline
export function skipSpace(at: usize): usize {
  while (isSpace(load<u8>(at))) at++;
  return at;
}

@inline
function isDigit(byte: u32): bool {
  return byte - 48 < 10;
}

function skipNumber(at: usize): usize {
  if (load<u8>(at) == 45) at++;
  const first = <u32>load<u8>(at);
  if (!isDigit(first)) return 0;
  at++;
  if (first != 48) { while (isDigit(load<u8>(at))) at++; }
  if (load<u8>(at) == 46) {
    at++;
    if (!isDigit(load<u8>(at))) return 0;
    while (isDigit(load<u8>(at))) at++;
  }
  if ((load<u8>(at) | 32) == 101) {
    at++;
    const sign = load<u8>(at);
    if (sign == 43 || sign == 45) at++;
    if (!isDigit(load<u8>(at))) return 0;
    while (isDigit(load<u8>(at))) at++;
  }
  return at;
}

const TRUE: u32 = 0x65757274; // "true" as the machine reads it
const NULL: u32 = 0x6c6c756e;
const ALSE: u32 = 0x65736c61;

@inline
export function isTrueAt(at: usize): bool {
  return load<u32>(at) == TRUE;
}
@inline
export function isNullAt(at: usize): bool {
  return load<u32>(at) == NULL;
}
@inline
export function isFalseAt(at: usize): bool {
  return load<u8>(at) == 102 && load<u32>(at, 1) == ALSE;
}

// A value that has no others in it.
function skipScalar(at: usize): usize {
  const byte = load<u8>(at);
  if (byte == 34) return skipString(at + 1);
  if (isTrueAt(at) || isNullAt(at)) return at + 4;
  if (isFalseAt(at)) return at + 5;
  return skipNumber(at);
}

// A key and its colon; the address of what follows.
@inline
function skipKey(at: usize): usize {
  if (load<u8>(at) != 34) return 0;
  at = skipString(at + 1);
  if (at == 0) return 0;
  at = skipSpace(at);
  return load<u8>(at) == 58 ? skipSpace(at + 1) : 0;
}

/** Skips a value, and the space behind it. */
export function skipValue(at: usize): usize {
  let depth: u32 = 0;
  let objects: u64 = 0; // a bit for each level, set in objects
  while (true) {
    // A value begins here.
    const byte = load<u8>(at);
    if (byte == 123 || byte == 91) {
      if (depth == MAX_DEPTH) return 0;
      const object = byte == 123;
      objects = (objects << 1) | <u64>object;
      depth++;
      at = skipSpace(at + 1);
      if (load<u8>(at) == (object ? 125 : 93)) {
        // An empty one is a value that ends.
        depth--;
        objects >>= 1;
        at = skipSpace(at + 1);
      } else {
        if (object) {
          at = skipKey(at);
          if (at == 0) return 0;
        }
        continue;
      }
    } else {
      at = skipScalar(at);
      if (at == 0) return 0;
      at = skipSpace(at);
    }
    // A value has ended: others end with it, or another begins.
    while (true) {
      if (depth == 0) return at;
      const next = load<u8>(at);
      const object = (objects & 1) != 0;
      if (next == 44) {
        at = skipSpace(at + 1);
        if (object) {
          at = skipKey(at);
          if (at == 0) return 0;
        }
        break;
      }
      if (next != (object ? 125 : 93)) return 0;
      depth--;
      objects >>= 1;
      at = skipSpace(at + 1);
    }
  }
}
