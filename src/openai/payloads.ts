// SPDX-License-Identifier: Apache-2.0
// Images, audio and files in a body are base64 of megabytes, of which the gateway needs to know only whether two are
// alike. They are looked for while the body arrives, a piece at a time, so that no other request waits long; what is parsed
// then is the body with a digest in the place of each. A payload begins with its string, or behind the head of a data URL,
// is base64 for long enough, and goes on to the end of the string.

import { createHash, type Hash } from "node:crypto";
import { concat } from "../base/bytes.ts";

/** So much base64 begins a payload. No text of a language has so many letters without a space. */
export const LEAST_PAYLOAD_BYTES = 65_536;
/** A run of the least length has several of the bytes that are this far apart. */
const STRIDE = 4_096;
const SAMPLES = 4;
/** What may stand before a run: its string's begin, or the head of a data URL. Else it is a number, or a word. */
const QUOTE = 34;
const BACKSLASH = 92;
const DATA_URL = new TextEncoder().encode("base64,");

const BASE64 = new Uint8Array(256);
for (const character of "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=_-") {
  BASE64[character.charCodeAt(0)] = 1;
}

/** A payload, to the end of its string or of what has come. */
interface Run {
  readonly start: number;
  end: number;
  readonly hash: Hash;
}

const encoder = new TextEncoder();

/** Looks for the payloads of one body. */
export class PayloadSearch {
  readonly #runs: Run[] = [];
  /** The run that what has come so far ends in. */
  #open: Run | undefined;
  /** Up to here it is decided what is in a run. */
  #at = 0;
  /** No run begins before here. */
  #floor = 0;

  /** Goes on to where the body has come to. The bytes before are to be the same as before. */
  advance(body: Uint8Array, end: number): void {
    for (;;) {
      if (this.#open !== undefined && !this.#extend(this.#open, body, end)) return;
      if (!this.#find(body, end)) return;
    }
  }

  // Whether the run has ended, with its string.
  #extend(run: Run, body: Uint8Array, end: number): boolean {
    const come = body.subarray(run.end, end);
    const length = come.indexOf(QUOTE);
    run.hash.update(length < 0 ? come : come.subarray(0, length));
    run.end += length < 0 ? come.length : length;
    if (length < 0) return false;
    // A quote that is escaped ends no string.
    this.#close(body[run.end - 1] !== BACKSLASH);
    return true;
  }

  #close(whole: boolean): void {
    const run = this.#open!;
    this.#open = undefined;
    this.#at = this.#floor = run.end;
    if (whole && run.end - run.start >= LEAST_PAYLOAD_BYTES) this.#runs.push(run);
  }

  // Whether a run has begun, and is open now.
  #find(body: Uint8Array, end: number): boolean {
    for (; this.#at + SAMPLES * STRIDE <= end; this.#at += STRIDE) {
      if (!sampled(body, this.#at)) continue;
      let start = this.#at;
      while (start > this.#floor && BASE64[body[start - 1]] === 1) start--;
      let known = this.#at;
      const least = Math.min(end, start + LEAST_PAYLOAD_BYTES);
      while (known < least && BASE64[body[known]] === 1) known++;
      // One that may go on with what is still to come is looked at again then.
      if (known === end && known < start + LEAST_PAYLOAD_BYTES && begins(body, start)) return false;
      if (known === least && begins(body, start)) {
        this.#open = { start, end: start, hash: createHash("sha256") };
        return true;
      }
      this.#floor = known;
      this.#at = Math.max(this.#at, known - STRIDE);
    }
    return false;
  }

  /** The body, all of which has come, with its payloads replaced; undefined where it has none. */
  shortened(body: Uint8Array): Uint8Array<ArrayBuffer> | undefined {
    if (this.#runs.length === 0) return undefined;
    const pieces: Uint8Array[] = [];
    let from = 0;
    for (const { start, end, hash } of this.#runs) {
      // A colon: no base64 is like it.
      pieces.push(body.subarray(from, start), encoder.encode(`sha256:${hash.digest("hex")}:${end - start}`));
      from = end;
    }
    pieces.push(body.subarray(from));
    return concat(pieces);
  }
}

/** The body for being parsed: with its payloads replaced. */
export function shortened<B extends Uint8Array>(body: B): B | Uint8Array<ArrayBuffer> {
  if (body.length < LEAST_PAYLOAD_BYTES) return body;
  const search = new PayloadSearch();
  search.advance(body, body.length);
  return search.shortened(body) ?? body;
}

function sampled(body: Uint8Array, at: number): boolean {
  for (let i = 0; i < SAMPLES; i++) if (BASE64[body[at + i * STRIDE]] === 0) return false;
  return true;
}

function begins(body: Uint8Array, start: number): boolean {
  if (body[start - 1] === QUOTE) return body[start - 2] !== BACKSLASH;
  if (start < DATA_URL.length) return false;
  for (let i = 0; i < DATA_URL.length; i++) if (body[start - DATA_URL.length + i] !== DATA_URL[i]) return false;
  return true;
}
