// SPDX-License-Identifier: Apache-2.0
// Strings of JSON: skipped, or copied into the prompt text as JSON.stringify writes them. Sixteen bytes at a time where
// nothing in them is special: no quote, backslash or control character, and nothing beyond ASCII, whose UTF-8 is checked.
//
// Every function gets the address behind the opening quote and returns that behind the closing one, or 0 for what is no
// string, or no UTF-8, or does not fit.

/** Where the next byte of the prompt text goes, and where none may. */
export let out: usize = 0;
let outEnd: usize = 0;

/** Bytes beyond the end of the text that may be written over. */
const SLACK: usize = 32;

export function begin(at: usize, end: usize): void {
  out = at;
  outEnd = end - SLACK;
}

export function setOut(at: usize): void {
  out = at;
}

/** Whether there is room for what is not copied from the body. */
@inline
export function hasRoom(): bool {
  return out < outEnd;
}

@inline
export function put(byte: u32): void {
  store<u8>(out++, byte);
}

/** Marks of the special bytes of sixteen. */
@inline
function specials(v: v128): i32 {
  const quote = i8x16.eq(v, i8x16.splat(34));
  const slash = i8x16.eq(v, i8x16.splat(92));
  // As signed bytes what is beyond ASCII is below the space too.
  const control = i8x16.lt_s(v, i8x16.splat(32));
  return i8x16.bitmask(v128.or(v128.or(quote, slash), control));
}

export function skipString(at: usize): usize {
  while (true) {
    const marks = specials(v128.load(at));
    if (marks == 0) {
      at += 16;
      continue;
    }
    at += <usize>ctz(marks);
    const byte = load<u8>(at);
    if (byte == 34) return at + 1;
    if (byte == 92) {
      const escape = load<u8>(at, 1);
      if (escape == 117) {
        if (hexOf(at + 2) < 0) return 0;
        at += 6;
      } else {
        if (!isEscape(escape)) return 0;
        at += 2;
      }
      continue;
    }
    if (byte < 128) return 0;
    const length = sequenceAt(at);
    if (length == 0) return 0;
    at += <usize>length;
  }
}

export function copyString(at: usize): usize {
  put(34);
  while (true) {
    if (out >= outEnd) return 0;
    const v = v128.load(at);
    const marks = specials(v);
    v128.store(out, v);
    if (marks == 0) {
      at += 16;
      out += 16;
      continue;
    }
    const plain = <usize>ctz(marks);
    at += plain;
    out += plain;
    const byte = load<u8>(at);
    if (byte == 34) {
      put(34);
      return at + 1;
    }
    if (byte == 92) {
      at = copyEscape(at);
      if (at == 0) return 0;
      continue;
    }
    if (byte < 128) return 0;
    const length = sequenceAt(at);
    if (length == 0) return 0;
    for (let i = 0; i < length; i++) put(load<u8>(at + i));
    at += <usize>length;
  }
}

@inline
function isEscape(byte: u32): bool {
  // " \ / b f n r t
  return byte == 34 || byte == 92 || byte == 47 || byte == 98 || byte == 102 || byte == 110 || byte == 114 || byte == 116;
}

// The character that an escape stands for, as JSON.stringify writes it.
function copyEscape(at: usize): usize {
  const escape = load<u8>(at, 1);
  if (escape != 117) {
    if (!isEscape(escape)) return 0;
    if (escape != 47) put(92);
    put(escape);
    return at + 2;
  }
  const unit = hexOf(at + 2);
  if (unit < 0) return 0;
  at += 6;
  if (unit >= 0xd800 && unit < 0xdc00 && load<u8>(at) == 92 && load<u8>(at, 1) == 117) {
    const low = hexOf(at + 2);
    if (low < 0) return 0;
    if (low >= 0xdc00 && low < 0xe000) {
      putCode(0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00));
      return at + 6;
    }
  }
  putUnit(unit);
  return at;
}

function putUnit(unit: i32): void {
  if (unit == 34 || unit == 92) {
    put(92);
    put(unit);
  } else if (unit < 32) putControl(unit);
  else if (unit >= 0xd800 && unit < 0xe000) putHex(unit);
  else putCode(unit);
}

function putControl(unit: i32): void {
  let letter: u32 = 0;
  if (unit == 8) letter = 98;
  else if (unit == 9) letter = 116;
  else if (unit == 10) letter = 110;
  else if (unit == 12) letter = 102;
  else if (unit == 13) letter = 114;
  if (letter == 0) return putHex(unit);
  put(92);
  put(letter);
}

function putHex(unit: i32): void {
  put(92);
  put(117);
  for (let shift = 12; shift >= 0; shift -= 4) {
    const digit = (unit >> shift) & 15;
    put(digit < 10 ? 48 + digit : 87 + digit);
  }
}

function putCode(code: i32): void {
  if (code < 0x80) return put(code);
  if (code < 0x800) put(0xc0 | (code >> 6));
  else {
    if (code < 0x10000) put(0xe0 | (code >> 12));
    else {
      put(0xf0 | (code >> 18));
      put(0x80 | ((code >> 12) & 63));
    }
    put(0x80 | ((code >> 6) & 63));
  }
  put(0x80 | (code & 63));
}

/** Four hexadecimal digits; -1 for anything else. */
function hexOf(at: usize): i32 {
  let value = 0;
  for (let i: usize = 0; i < 4; i++) {
    const byte = <i32>load<u8>(at + i);
    let digit = byte - 48;
    if (digit < 0 || digit > 9) {
      digit = (byte | 32) - 87;
      if (digit < 10 || digit > 15) return -1;
    }
    value = (value << 4) | digit;
  }
  return value;
}

@inline
function continues(byte: u32): bool {
  return (byte & 0xc0) == 0x80;
}

/** Bytes of the UTF-8 sequence at an address that begins beyond ASCII; 0 when it is none (Unicode, table 3-7). */
function sequenceAt(at: usize): i32 {
  const first = <u32>load<u8>(at);
  const second = <u32>load<u8>(at, 1);
  if (first < 0xc2 || first > 0xf4 || !continues(second)) return 0;
  if (first < 0xe0) return 2;
  if (!continues(load<u8>(at, 2))) return 0;
  if (first < 0xf0) {
    if (first == 0xe0 && second < 0xa0) return 0;
    return first == 0xed && second > 0x9f ? 0 : 3;
  }
  if (!continues(load<u8>(at, 3))) return 0;
  if (first == 0xf0 && second < 0x90) return 0;
  return first == 0xf4 && second > 0x8f ? 0 : 4;
}
