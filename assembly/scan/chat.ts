// SPDX-License-Identifier: Apache-2.0
// A chat request read in one pass over its bytes: the fields that the gateway decides by, and the canonical prompt text,
// which is written where prompts are hashed. What it takes it reads as JSON.parse and promptText do, to the byte; whatever
// it does not take, valid or not, is left to them: then it returns 0.
//
// Read are messages of a role and a content that is a text, null, or parts of text, in that order, beside fields that are
// null or that no chat template sees; no salt; names without escapes. Other messages, and tools, are skipped: where they
// stand in the body, where their text is missing in the prompt, and digests by which they are known again, are told, so that
// only what is new among them is read elsewhere. The body stands in this worker's scratch.

import { bodyBytes, hashes, maxChunks, scratch, bodyText, promptText, textBytes } from "../memory/plan";
import { digestAt } from "../prefix/hash";
import {
  CHOICES,
  fieldOf,
  IGNORED,
  isTextType,
  isUnseen,
  isWord,
  MAX_COMPLETION,
  MAX_TOKENS,
  MESSAGES,
  MODEL,
  OPTIONS,
  OTHER,
  STREAM,
  TOOLS,
} from "./names";
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
  toolsStart: u32; // both 0 for none
  toolsEnd: u32;
  skipped: u32; // messages that were not read
  reserved: u32;
  toolsDigest: u64;
}

/** A message that was not read: its bytes in the body, with the space behind them, and where its text is missing. */
@unmanaged
export class Skipped {
  start: u32;
  end: u32;
  textAt: u32;
  reserved: u32;
  digest: u64;
}

export const SKIPPED_BYTES: u32 = offsetof<Skipped>();
/** Most of them in one body. */
const MOST_SKIPPED: u32 = 1_024;

/** Where they are told: where the hashes of prompts will be. */
export function skippedOffset(): usize {
  return scratch + hashes;
}

export const SCANNED_TEXT_BYTES: u32 = offsetof<Scanned>("textBytes");
export const SCANNED_MODEL_START: u32 = offsetof<Scanned>("modelStart");
export const SCANNED_MODEL_END: u32 = offsetof<Scanned>("modelEnd");
export const SCANNED_STREAM: u32 = offsetof<Scanned>("stream");
export const SCANNED_MAX_TOKENS: u32 = offsetof<Scanned>("maxTokens");
export const SCANNED_CHOICES: u32 = offsetof<Scanned>("choices");
export const SCANNED_OPTIONS_START: u32 = offsetof<Scanned>("optionsStart");
export const SCANNED_OPTIONS_END: u32 = offsetof<Scanned>("optionsEnd");
export const SCANNED_TOOLS_START: u32 = offsetof<Scanned>("toolsStart");
export const SCANNED_TOOLS_END: u32 = offsetof<Scanned>("toolsEnd");
export const SCANNED_SKIPPED: u32 = offsetof<Scanned>("skipped");
export const SCANNED_TOOLS_DIGEST: u32 = offsetof<Scanned>("toolsDigest");

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
    if (field == MESSAGES) at = scanMessages(found, at, start);
    else if (field == IGNORED || isNullAt(at)) {
      if (field == MODEL || field == OPTIONS) return 0;
      at = skipValue(at);
    } else if (field == OTHER) return 0;
    else if (field == TOOLS) {
      if (load<u8>(at) != 91) return 0;
      at = skipValue(at);
      found.toolsStart = <u32>(value - start);
      found.toolsEnd = <u32>(at - start);
      if (at != 0) found.toolsDigest = digestAt(value, <u32>(at - value));
    }
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
function scanMessages(found: Scanned, at: usize, start: usize): usize {
  if (load<u8>(at) != 91) return 0;
  at = skipSpace(at + 1);
  put(91);
  while (true) {
    const message = at;
    const text = out;
    at = scanMessage(at);
    if (at == 0) {
      setOut(text);
      at = skipMessage(found, message, start);
    }
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

function skipMessage(found: Scanned, from: usize, start: usize): usize {
  const most = min(MOST_SKIPPED, (maxChunks << 3) / SKIPPED_BYTES);
  if (load<u8>(from) != 123 || found.skipped == most || !hasRoom()) return 0;
  const at = skipValue(from);
  if (at == 0) return 0;
  const skipped = changetype<Skipped>(skippedOffset() + <usize>found.skipped * SKIPPED_BYTES);
  skipped.start = <u32>(from - start);
  skipped.end = <u32>(at - start);
  skipped.textAt = <u32>(out - (scratch + promptText));
  skipped.digest = digestAt(from, <u32>(at - from));
  found.skipped++;
  return at;
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
