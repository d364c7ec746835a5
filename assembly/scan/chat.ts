// SPDX-License-Identifier: Apache-2.0
// A chat request read in one pass over its bytes: the fields that the gateway decides by, and the canonical prompt text,
// which is written where prompts are hashed. What it takes it reads as JSON.parse and promptText do, to the byte; whatever
// it does not take, valid or not, is left to them: then it returns 0.
//
// Taken are messages of a role and a content that is a text, null, or parts of text, in that order, beside fields that are
// null or that no chat template sees; no tools, no salt; names without escapes. The body stands in this worker's scratch.

import { bodyBytes, scratch, bodyText, promptText, textBytes } from "../memory/plan";
import { begin, copyString, hasRoom, out, put, setOut } from "./text";
import { isFalseAt, isNullAt, isTrueAt, skipSpace, skipValue } from "./value";

/** What was found: byte ranges in the body, and values. */
@unmanaged
export class Scanned {
  textBytes: u32; // of the prompt text
  modelStart: u32; // of its name, without quotes; both 0 for none
  modelEnd: u32;
  stream: u32; // 1 for true
  maxTokens: i32; // -1 when it does not say
  choices: i32; // 1 unless it says
  optionsStart: u32; // of stream_options; both 0 for none
  optionsEnd: u32;
}

export const SCANNED_TEXT_BYTES: u32 = offsetof<Scanned>("textBytes");
export const SCANNED_MODEL_START: u32 = offsetof<Scanned>("modelStart");
export const SCANNED_MODEL_END: u32 = offsetof<Scanned>("modelEnd");
export const SCANNED_STREAM: u32 = offsetof<Scanned>("stream");
export const SCANNED_MAX_TOKENS: u32 = offsetof<Scanned>("maxTokens");
export const SCANNED_CHOICES: u32 = offsetof<Scanned>("choices");
export const SCANNED_OPTIONS_START: u32 = offsetof<Scanned>("optionsStart");
export const SCANNED_OPTIONS_END: u32 = offsetof<Scanned>("optionsEnd");

/** Where the result stands: in front of the body. */
export const SCANNED_BYTES: u32 = 64;

/** Where the caller puts a body, of up to `bodyCapacity` bytes. */
export function bodyOffset(): usize {
  return scratch + bodyText + SCANNED_BYTES;
}
export function bodyCapacity(): u32 {
  return bodyBytes - SCANNED_BYTES - PADDING;
}
export function scannedOffset(): usize {
  return scratch + bodyText;
}

/** Zeros behind a body: no value goes on over them. */
const PADDING: u32 = 64;

// Bits of the fields that have been seen.
const MODEL: u32 = 1;
const MESSAGES: u32 = 2;
const STREAM: u32 = 4;
const MAX_TOKENS: u32 = 8;
const MAX_COMPLETION: u32 = 16;
const CHOICES: u32 = 32;
const OPTIONS: u32 = 64;
const OTHER: u32 = 128; // one that is not taken unless it is null
const IGNORED: u32 = 0;

// Whether a name is a word of `size` bytes, which stand in eights, the first byte lowest. Texts cannot be written here: they
// would be data in a memory that is everybody's.
@inline
function isWord(at: usize, length: usize, size: usize, first: u64, second: u64 = 0, third: u64 = 0): bool {
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
function fieldOf(at: usize, length: usize): u32 {
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
  if (first == 116) return /* tools */ isWord(at, length, 5, 0x736c6f6f74) ? OTHER : IGNORED;
  return first == 99 && /* cache_salt */ isWord(at, length, 10, 0x61735f6568636163, 0x746c) ? OTHER : IGNORED;
}

let nameEnd: usize = 0;

// A name without escapes; its last byte is before `nameEnd`. Returns the address of the value behind it.
@inline
function readName(at: usize): usize {
  if (load<u8>(at) != 34) return 0;
  at++;
  while (true) {
    const byte = load<u8>(at);
    if (byte == 34) break;
    if (byte == 92 || byte < 32 || byte > 126) return 0;
    at++;
  }
  nameEnd = at;
  at = skipSpace(at + 1);
  return load<u8>(at) == 58 ? skipSpace(at + 1) : 0;
}

let count: i32 = 0;

// A count of at most nine digits, into `count`.
function readCount(at: usize): usize {
  const from = at;
  let value = 0;
  while (<u32>load<u8>(at) - 48 < 10) value = value * 10 + <i32>load<u8>(at++) - 48;
  const digits = at - from;
  if (digits == 0 || digits > 9 || (digits > 1 && load<u8>(from) == 48)) return 0;
  const next = load<u8>(at);
  if (next == 46 || next == 101 || next == 69) return 0;
  count = value;
  return at;
}

/** Scans a body of so many bytes. Returns 1, or 0 when it has to be read in another way. */
export function scanChat(length: u32): u32 {
  const start = bodyOffset();
  const end = start + length;
  memory.fill(end, 0, PADDING);
  const found = changetype<Scanned>(scannedOffset());
  memory.fill(changetype<usize>(found), 0, offsetof<Scanned>());
  found.maxTokens = -1;
  found.choices = 1;
  const text = scratch + promptText;
  begin(text, text + textBytes);
  let seen: u32 = 0;
  let completion = -1;
  let at = skipSpace(start);
  if (load<u8>(at) != 123) return 0;
  at = skipSpace(at + 1);
  if (load<u8>(at) == 125) return 0;
  while (true) {
    const name = at + 1;
    at = readName(at);
    if (at == 0) return 0;
    const field = fieldOf(name, nameEnd - name);
    if (field != IGNORED) {
      if ((seen & field) != 0) return 0; // the last one counts, and the first has been read
      seen |= field;
    }
    const value = at;
    if (field == MESSAGES) at = scanMessages(at);
    else if (field == IGNORED || isNullAt(at)) {
      if (field == MODEL || field == OPTIONS) return 0;
      at = skipValue(at);
    } else if (field == OTHER) return 0;
    else if (field == MODEL) {
      at = readModel(found, at, start);
    } else if (field == STREAM) {
      found.stream = <u32>isTrueAt(at);
      if (!isTrueAt(at) && !isFalseAt(at)) return 0;
      at = skipValue(at);
    } else if (field == OPTIONS) {
      at = skipValue(at);
      found.optionsStart = <u32>(value - start);
      found.optionsEnd = <u32>(at - start);
    } else {
      at = readCount(at);
      if (field == MAX_TOKENS) found.maxTokens = count;
      else if (field == MAX_COMPLETION) completion = count;
      else found.choices = count;
    }
    if (at == 0) return 0;
    at = skipSpace(at);
    const next = load<u8>(at);
    at = skipSpace(at + 1);
    if (next == 44) continue;
    if (next != 125) return 0;
    break;
  }
  if (at != end || (seen & MESSAGES) == 0) return 0;
  if (completion >= 0) found.maxTokens = completion;
  found.textBytes = <u32>(out - text);
  return 1;
}

function readModel(found: Scanned, at: usize, start: usize): usize {
  if (load<u8>(at) != 34) return 0;
  const name = at + 1;
  for (at = name; load<u8>(at) != 34; at++) {
    const byte = load<u8>(at);
    if (byte == 92 || byte < 32 || byte > 126) return 0;
  }
  found.modelStart = <u32>(name - start);
  found.modelEnd = <u32>(at - start);
  return at + 1;
}

// Writes `[{"role":…,"content":…},…]`.
function scanMessages(at: usize): usize {
  if (load<u8>(at) != 91) return 0;
  at = skipSpace(at + 1);
  put(91);
  while (true) {
    at = scanMessage(at);
    if (at == 0) return 0;
    at = skipSpace(at);
    const next = load<u8>(at);
    at = skipSpace(at + 1);
    if (next == 44) {
      put(44);
      continue;
    }
    if (next != 93) return 0;
    put(93);
    return at;
  }
}

const ROLE: u32 = 1;
const CONTENT: u32 = 2;

function scanMessage(at: usize): usize {
  if (load<u8>(at) != 123 || !hasRoom()) return 0;
  at = skipSpace(at + 1);
  put(123);
  let seen: u32 = 0;
  if (load<u8>(at) == 125) {
    put(125);
    return at + 1;
  }
  while (true) {
    const name = at + 1;
    at = readName(at);
    if (at == 0) return 0;
    const length = nameEnd - name;
    if (/* role */ isWord(name, length, 4, 0x656c6f72)) {
      if (seen != 0 || load<u8>(at) != 34) return 0;
      seen |= ROLE;
      putRole();
      at = copyString(at + 1);
    } else if (/* content */ isWord(name, length, 7, 0x746e65746e6f63)) {
      if ((seen & CONTENT) != 0) return 0;
      const first = seen == 0;
      seen |= CONTENT;
      if (isNullAt(at)) at += 4;
      else {
        if (!first) put(44);
        putContent();
        if (load<u8>(at) == 34) at = copyString(at + 1);
        else at = load<u8>(at) == 91 ? scanParts(at) : 0;
      }
    } else if (isUnseen(name, length) || (isNullAt(at) && !/* type */ isWord(name, length, 4, 0x65707974))) at = skipValue(at);
    else return 0;
    if (at == 0) return 0;
    at = skipSpace(at);
    const next = load<u8>(at);
    at++;
    if (next == 44) {
      at = skipSpace(at);
      continue;
    }
    if (next != 125 || !hasRoom()) return 0;
    put(125);
    return at;
  }
}

// Fields of a message that no chat template sees.
function isUnseen(name: usize, length: usize): bool {
  return /* cache_control */ isWord(name, length, 13, 0x6f635f6568636163, 0x6c6f72746e) || /* annotations */ isWord(name, length, 11, 0x697461746f6e6e61, 0x736e6f) ||
    /* refusal */ isWord(name, length, 7, 0x6c617375666572) || /* logprobs */ isWord(name, length, 8, 0x73626f7270676f6c);
}

@inline
function putRole(): void {
  store<u64>(out, 0x3a22656c6f7222); // "role":
  setOut(out + 7);
}

@inline
function putContent(): void {
  store<u64>(out, 0x6e65746e6f6322); // "conten
  store<u32>(out, 0x3a2274, 7); // t":
  setOut(out + 10);
}

@inline
function putText(): void {
  store<u64>(out, 0x3a2274786574227b); // {"text":
  setOut(out + 8);
}

/** `[{"text":`, which goes in front of the first part when there is a second. */
const FIRST: usize = 9;

// One part of text is that text; several are a list of objects of text.
function scanParts(at: usize): usize {
  at = skipSpace(at + 1);
  const from = out;
  if (load<u8>(at) == 93) {
    put(91);
    put(93);
    return at + 1;
  }
  for (let parts: u32 = 0;; parts++) {
    if (!hasRoom()) return 0;
    if (parts == 1) {
      const length = out - from;
      memory.copy(from + FIRST, from, length);
      setOut(from);
      put(91);
      putText();
      setOut(from + FIRST + length);
      put(125);
    }
    if (parts > 0) {
      put(44);
      putText();
    }
    at = load<u8>(at) == 34 ? copyString(at + 1) : scanPart(at);
    if (at == 0 || !hasRoom()) return 0;
    if (parts > 0) put(125);
    at = skipSpace(at);
    const next = load<u8>(at);
    at++;
    if (next == 44) {
      at = skipSpace(at);
      continue;
    }
    if (next != 93) return 0;
    if (parts > 0) put(93);
    return at;
  }
}

// The text of a part that is text and nothing else.
function scanPart(at: usize): usize {
  if (load<u8>(at) != 123) return 0;
  at = skipSpace(at + 1);
  let texts: u32 = 0;
  let types: u32 = 0;
  if (load<u8>(at) == 125) return 0;
  while (true) {
    const name = at + 1;
    at = readName(at);
    if (at == 0) return 0;
    const length = nameEnd - name;
    if (/* text */ isWord(name, length, 4, 0x74786574)) {
      if (texts++ > 0 || load<u8>(at) != 34) return 0;
      at = copyString(at + 1);
    } else if (/* type */ isWord(name, length, 4, 0x65707974)) {
      if (types++ > 0 || !isTextType(at)) return 0;
      at = skipValue(at);
    } else at = skipValue(at);
    if (at == 0) return 0;
    at = skipSpace(at);
    const next = load<u8>(at);
    at++;
    if (next == 44) {
      at = skipSpace(at);
      continue;
    }
    return next == 125 && texts == 1 ? at : 0;
  }
}

// "text", "input_text" or "output_text".
function isTextType(at: usize): bool {
  return /* text */ isWord(at, 6, 6, 0x227478657422) || /* input_text */ isWord(at, 12, 12, 0x745f7475706e6922, 0x22747865) || /* output_text */ isWord(at, 13, 13, 0x5f74757074756f22, 0x2274786574);
}
