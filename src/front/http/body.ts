// SPDX-License-Identifier: Apache-2.0
// Reads a request body whole, within its limits of size and time.

import { concat } from "../../base/bytes.ts";
import { GatewayError } from "../../base/errors.ts";
import type { Call } from "../../gateway/call.ts";
import type { BodyReader, HttpRequest } from "./exchange.ts";
import { codingsOf, decodeBody } from "./content_coding.ts";

/** Bodies up to this size are read in one go. */
const SMALL_BYTES = 65_536;

export interface BodyLimits {
  bytes: number;
  ms: number;
}

/**
 * Reads within the call's time for its body, and undoes what the client compressed. Throws GatewayError: body_too_large,
 * request_timeout, client_closed, unsupported_encoding, invalid_request.
 */
export async function readBody(
  request: HttpRequest,
  call: Call,
  limits: BodyLimits,
): Promise<Uint8Array<ArrayBuffer>> {
  const { contentEncoding } = call.incoming.fields;
  // Fast path: few clients compress what they send.
  if (contentEncoding === undefined) return await readPlain(request, call, limits);
  const codings = codingsOf(contentEncoding);
  return await decodeBody(await readPlain(request, call, limits), codings, limits.bytes);
}

function readPlain(
  request: HttpRequest,
  call: Call,
  limits: BodyLimits,
): Promise<Uint8Array<ArrayBuffer>> {
  const announced = call.incoming.fields.contentLength;
  if (announced !== null && Number(announced) > limits.bytes) return Promise.reject(tooLarge(limits.bytes));
  // Fast path, most requests: a small body of announced length. A larger one is read piece by piece, so that it can be
  // given up when it does not come.
  const reader = announced !== null && Number(announced) <= SMALL_BYTES ? undefined : request.reader();
  const reading = reader ? readCounted(reader, limits.bytes) : request.bytes();
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

async function readCounted(
  reader: BodyReader,
  maxBytes: number,
): Promise<Uint8Array<ArrayBuffer>> {
  const pieces: Uint8Array[] = [];
  let length = 0;
  for (let next = await reader.read(); next.value !== undefined; next = await reader.read()) {
    length += next.value.length;
    if (length > maxBytes) {
      reader.cancel().catch(() => {});
      throw tooLarge(maxBytes);
    }
    pieces.push(next.value);
  }
  return concat(pieces);
}

/** It did not come in its time. */
export function tooSlow(ms: number): GatewayError {
  return new GatewayError("request_timeout", `The request body did not arrive within ${ms} ms`);
}

/** It is beyond its limit. */
export function tooLarge(maxBytes: number): GatewayError {
  return new GatewayError("body_too_large", `The request body is larger than ${maxBytes} bytes (limits.body_bytes)`);
}
