// SPDX-License-Identifier: Apache-2.0
// Changes to a request body that leave every other byte as it came: the value of a top-level key is replaced in place, or
// a key is put in front. The body is not printed anew.

const QUOTE = 34;
const COMMA = 44;
const COLON = 58;
const OPEN_BRACKET = 91;
const BACKSLASH = 92;
const CLOSE_BRACKET = 93;
const OPEN_BRACE = 123;
const CLOSE_BRACE = 125;

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** A change of a top-level key. Where the key stands several times, every value changes. */
export interface Change {
  readonly key: string;
  readonly value: unknown;
}

/** The body with the changes made. `body` is valid JSON whose top level is an object. */
export function spliceBody(body: Uint8Array<ArrayBuffer>, changes: readonly Change[]): Uint8Array<ArrayBuffer> {
  if (changes.length === 0) return body;
  const places = topLevelValues(body);
  if (places.length === 0) {
    return encoder.encode(JSON.stringify(Object.fromEntries(changes.map(({ key, value }) => [key, value]))));
  }
  const edits: { start: number; end: number; text: Uint8Array }[] = [];
  for (const { key, value } of changes) {
    const found = places.filter((place) => place.key === key);
    const text = JSON.stringify(value);
    for (const { start, end } of found) edits.push({ start, end, text: encoder.encode(text) });
    if (found.length === 0) {
      const at = body.indexOf(OPEN_BRACE) + 1;
      edits.push({ start: at, end: at, text: encoder.encode(`${JSON.stringify(key)}:${text},`) });
    }
  }
  edits.sort((a, b) => a.start - b.start);
  const grown = edits.reduce((sum, { start, end, text }) => sum + text.length - (end - start), 0);
  const result = new Uint8Array(body.length + grown);
  let from = 0;
  let to = 0;
  for (const { start, end, text } of edits) {
    result.set(body.subarray(from, start), to);
    to += start - from;
    result.set(text, to);
    to += text.length;
    from = end;
  }
  result.set(body.subarray(from), to);
  return result;
}

interface Place {
  key: string;
  /** Byte range of the value, without white space. */
  start: number;
  end: number;
}

function topLevelValues(body: Uint8Array): Place[] {
  const places: Place[] = [];
  let at = body.indexOf(OPEN_BRACE) + 1;
  for (;;) {
    at = skipSpace(body, at);
    if (body[at] === COMMA) at = skipSpace(body, at + 1);
    if (at >= body.length || body[at] !== QUOTE) return places;
    const keyEnd = stringEnd(body, at);
    const key = JSON.parse(decoder.decode(body.subarray(at, keyEnd))) as string;
    at = skipSpace(body, keyEnd);
    if (body[at] === COLON) at = skipSpace(body, at + 1);
    const end = valueEnd(body, at);
    places.push({ key, start: at, end });
    at = end;
  }
}

function valueEnd(body: Uint8Array, start: number): number {
  let at = start;
  let depth = 0;
  while (at < body.length) {
    const byte = body[at];
    if (byte === QUOTE) {
      at = stringEnd(body, at);
      if (depth === 0) return at;
      continue;
    }
    if (byte === OPEN_BRACE || byte === OPEN_BRACKET) depth++;
    else if (byte === CLOSE_BRACE || byte === CLOSE_BRACKET) {
      if (depth === 0) return trimmed(body, start, at);
      if (--depth === 0) return at + 1;
    } else if (depth === 0 && byte === COMMA) return trimmed(body, start, at);
    at++;
  }
  return at;
}

/** Just past a string that begins at `start`. */
function stringEnd(body: Uint8Array, start: number): number {
  for (let at = body.indexOf(QUOTE, start + 1); at > 0; at = body.indexOf(QUOTE, at + 1)) {
    let slashes = 0;
    while (body[at - 1 - slashes] === BACKSLASH) slashes++;
    if (slashes % 2 === 0) return at + 1;
  }
  return body.length;
}

function trimmed(body: Uint8Array, start: number, end: number): number {
  while (end > start && isSpace(body[end - 1])) end--;
  return end;
}

function skipSpace(body: Uint8Array, at: number): number {
  while (at < body.length && isSpace(body[at])) at++;
  return at;
}

function isSpace(byte: number): boolean {
  return byte === 32 || byte === 9 || byte === 10 || byte === 13;
}
