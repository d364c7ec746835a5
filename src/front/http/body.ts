// SPDX-License-Identifier: Apache-2.0
// Reads a request body whole, within its limits of size and time.

import { GatewayError } from "../../base/errors.ts";
import type { Call } from "../../gateway/call.ts";
import { PayloadSearch, type ShortBody } from "../../openai/payloads.ts";
import type { BodyReader, HttpRequest } from "./exchange.ts";
import { codingsOf, decodeBody } from "./content_coding.ts";

/** Bodies up to this size are read in one go: no payload that is replaced fits in. */
const SMALL_BYTES = 65_536;
/** After so much of one body others have their turn: some 2 ms. */
const TURN_BYTES = 2_097_152;
/** Memory is taken for so much of a body that has not come yet; for all of it, when so much has. */
const AHEAD_BYTES = 1_048_576;

export interface BodyLimits {
  bytes: number;
  ms: number;
}

export interface ReadBody {
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** The same for being parsed, its images and the like replaced by digests; undefined where it has none that are large. */
  readonly short?: ShortBody;
}

/**
 * Reads within the call's time for its body, and undoes what the client compressed. Throws GatewayError: body_too_large,
 * request_timeout, client_closed, unsupported_encoding, invalid_request.
 */
export async function readBody(request: HttpRequest, call: Call, limits: BodyLimits): Promise<ReadBody> {
  const { contentEncoding } = call.incoming.fields;
  // Fast path: few clients compress what they send.
  if (contentEncoding === undefined) return await readPlain(request, call, limits);
  const codings = codingsOf(contentEncoding);
  const { bytes: packed } = await readPlain(request, call, limits);
  const bytes = await decodeBody(packed, codings, limits.bytes);
  const search = new PayloadSearch();
  for (let at = TURN_BYTES; at < bytes.length; at += TURN_BYTES) {
    search.advance(bytes, at);
    await turn();
  }
  return { bytes, short: search.shortened(bytes) };
}

// What has come is read without waiting: others have their turn all the same.
const turn = () => new Promise((resolve) => setTimeout(resolve));

function readPlain(request: HttpRequest, call: Call, limits: BodyLimits): Promise<ReadBody> {
  const { contentLength: announced, contentEncoding } = call.incoming.fields;
  const packed = contentEncoding !== undefined;
  if (announced !== null && Number(announced) > limits.bytes) return Promise.reject(tooLarge(limits.bytes));
  // Fast path, most requests: a small body of announced length. A larger one is read piece by piece, so that it can be
  // given up when it does not come.
  const reader = announced !== null && Number(announced) <= SMALL_BYTES ? undefined : request.reader();
  const reading = reader
    ? new ArrivingBody(reader, announced === null ? undefined : Number(announced), limits.bytes, packed).read()
    : request.bytes().then((bytes) => ({ bytes }));
  return new Promise((resolve, reject) => {
    const late = (over: GatewayError | undefined) => {
      reject(over ?? tooSlow(limits.ms));
      reader?.cancel().catch(() => {});
    };
    const give = (error: unknown) =>
      reject(error instanceof GatewayError ? error : new GatewayError("client_closed", "The client left", null, error));
    call.cancellation.limit(limits.ms, late);
    reading.then(resolve, give);
  });
}

/** A body that arrives in pieces, in one piece of memory. */
class ArrivingBody {
  #bytes: Uint8Array<ArrayBuffer>;
  #length = 0;
  readonly #search: PayloadSearch | undefined;

  /**
   * @param announced Its length; undefined where it is not known.
   * @param packed Whether there is nothing to be found in it as it comes.
   */
  constructor(
    readonly reader: BodyReader,
    readonly announced: number | undefined,
    readonly maxBytes: number,
    packed: boolean,
  ) {
    this.#search = packed ? undefined : new PayloadSearch();
    this.#bytes = new Uint8Array(Math.min(announced ?? SMALL_BYTES, AHEAD_BYTES));
  }

  async read(): Promise<ReadBody> {
    let next = TURN_BYTES;
    while (await this.#more()) {
      if (this.#length > this.maxBytes) {
        this.reader.cancel().catch(() => {});
        throw tooLarge(this.maxBytes);
      }
      this.#search?.advance(this.#bytes, this.#length);
      if (this.#length < next) continue;
      next = this.#length + TURN_BYTES;
      await turn();
    }
    const bytes = this.#length === this.#bytes.length ? this.#bytes : this.#bytes.slice(0, this.#length);
    return { bytes, short: this.#search?.shortened(bytes) };
  }

  // False at its end.
  async #more(): Promise<boolean> {
    const { reader } = this;
    if (reader.readInto) {
      if (this.#length === this.announced) return false;
      this.#makeRoom(1);
      const taken = await reader.readInto(this.#bytes.subarray(this.#length));
      this.#length += taken;
      return taken > 0;
    }
    const { value } = await reader.read();
    if (value === undefined) return false;
    if (this.#length + value.length <= this.maxBytes) {
      this.#makeRoom(value.length);
      this.#bytes.set(value, this.#length);
    }
    this.#length += value.length;
    return true;
  }

  #makeRoom(bytes: number): void {
    const needed = this.#length + bytes;
    if (needed <= this.#bytes.length) return;
    const larger = new Uint8Array(Math.max(needed, this.announced ?? 2 * this.#bytes.length));
    larger.set(this.#bytes.subarray(0, this.#length));
    this.#bytes = larger;
  }
}

/** It did not come in its time. */
export function tooSlow(ms: number): GatewayError {
  return new GatewayError("request_timeout", `The request body did not arrive within ${ms} ms`);
}

/** It is beyond its limit. */
export function tooLarge(maxBytes: number): GatewayError {
  return new GatewayError("body_too_large", `The request body is larger than ${maxBytes} bytes (limits.body_bytes)`);
}
