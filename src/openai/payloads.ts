// SPDX-License-Identifier: Apache-2.0
// Images, audio and files in a body are base64 of megabytes, of which the gateway needs to know only whether two are
// alike. They are looked for while the body arrives, a piece at a time, so that no other request waits long; what is parsed
// then is the body with a digest in the place of each. A payload begins with its string, or behind the head of a data URL,
// is base64 to the end of the string, and long enough.

import { createHash, type Hash } from "node:crypto";
import { concat } from "../base/bytes.ts";
import { GatewayError } from "../base/errors.ts";
import type { Kind } from "./api.ts";
import { isPayload } from "./prompt_text.ts";
import { decodeRequest, type InferenceRequest } from "./request.ts";

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

/** A body for being parsed. What stands in it for a payload begins with a mark that is of this body alone: nobody can send it. */
export interface ShortBody {
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly mark: string;
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
  /** How far it has looked. */
  #looked = 0;

  /** Goes on to where the body has come to. The bytes before are to be the same as before. */
  advance(body: Uint8Array, end: number): void {
    // What comes in crumbs is not looked at crumb by crumb.
    if (end - this.#looked >= STRIDE) this.#look(body, end);
  }

  #look(body: Uint8Array, end: number): void {
    this.#looked = end;
    for (;;) {
      if (this.#open !== undefined && !this.#extend(this.#open, body, end)) return;
      if (!this.#find(body, end)) return;
    }
  }

  // Whether the run has ended. One that does not end its string is none: it may be a text.
  #extend(run: Run, body: Uint8Array, end: number): boolean {
    let at = run.end;
    while (at + 8 <= end && areBase64(body, at)) at += 8;
    while (at < end && BASE64[body[at]] === 1) at++;
    run.hash.update(body.subarray(run.end, at));
    run.end = at;
    if (at === end) return false;
    this.#open = undefined;
    this.#at = this.#floor = at;
    if (body[at] === QUOTE && at - run.start >= LEAST_PAYLOAD_BYTES) this.#runs.push(run);
    return true;
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
  shortened(body: Uint8Array): ShortBody | undefined {
    this.#look(body, body.length);
    if (this.#runs.length === 0) return undefined;
    const mark = `${crypto.randomUUID()}:`;
    const pieces: Uint8Array[] = [];
    let from = 0;
    for (const { start, end, hash } of this.#runs) {
      pieces.push(body.subarray(from, start), encoder.encode(`${mark}${hash.digest("hex")}:${end - start}`));
      from = end;
    }
    pieces.push(body.subarray(from));
    return { bytes: concat(pieces), mark };
  }
}

/**
 * Decodes a body with its payloads replaced; without a kind, its fields tell. What turns out to be a text is as long again as
 * it was, with its digest over and over: of an image a digest is enough, a text is computed. Throws as `decodeRequest`.
 */
export function decodeShortened(kind: Kind | undefined, { bytes, mark }: ShortBody): InferenceRequest {
  const request = decodeRequest(kind, bytes);
  const replaced = new RegExp(`${mark}([0-9a-f]{64}):(\\d+)`, "g");
  try {
    restore(request.body as Record<string, unknown>, replaced, false);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new GatewayError("invalid_request", "The request is nested too deeply", null, error);
  }
  return request;
}

function restore<T>(value: T, replaced: RegExp, payload: boolean): T {
  // Equal images are to be equal in every body: without its mark.
  if (typeof value === "string") {
    return (payload ? value.replaceAll(replaced, "sha256:$1:$2") : value.replaceAll(replaced, stretched)) as T;
  }
  if (typeof value !== "object" || value === null) return value;
  const fields = value as Record<string, unknown>;
  const inside = payload || (!Array.isArray(value) && isPayload(fields.type));
  for (const key of Object.keys(fields)) fields[key] = restore(fields[key], replaced, inside);
  return value;
}

const stretched = (_: string, digest: string, length: string): string =>
  digest.repeat(Math.ceil(Number(length) / digest.length)).slice(0, Number(length));

function areBase64(body: Uint8Array, at: number): boolean {
  return (BASE64[body[at]] & BASE64[body[at + 1]] & BASE64[body[at + 2]] & BASE64[body[at + 3]] &
    BASE64[body[at + 4]] & BASE64[body[at + 5]] & BASE64[body[at + 6]] & BASE64[body[at + 7]]) === 1;
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
