// SPDX-License-Identifier: Apache-2.0
// Request bodies that clients have compressed (RFC 9110, section 8.4): engines get them plain. Decoded piece by piece, so
// that what would become larger than a body may be is given up before it does.

import { Buffer } from "node:buffer";
import type { Transform } from "node:stream";
import zlib from "node:zlib";
import { concat } from "../../base/bytes.ts";
import { GatewayError } from "../../base/errors.ts";

const ZLIB_METHOD = 8;

/** What undoes each coding; deflate comes with zlib's header or, from some clients, without. */
const DECODERS: Readonly<Record<string, (bytes: Uint8Array) => Transform>> = {
  "gzip": () => zlib.createGunzip(),
  "x-gzip": () => zlib.createGunzip(),
  "deflate": ([first]) => (first & 15) === ZLIB_METHOD ? zlib.createInflate() : zlib.createInflateRaw(),
  "br": () => zlib.createBrotliDecompress(),
  "zstd": () => zlib.createZstdDecompress(),
};

/** Codings of one body; each costs a pass. */
const MAX_CODINGS = 2;

/** Codings that are undone, in the order in which they were applied; throws GatewayError (unsupported_encoding). */
export function codingsOf(field: string | undefined): string[] {
  if (field === undefined) return [];
  const codings = field.toLowerCase().split(",").map((coding) => coding.trim()).filter((coding) =>
    coding !== "identity"
  );
  const unknown = codings.find((coding) => !Object.hasOwn(DECODERS, coding));
  if (unknown === undefined && codings.length <= MAX_CODINGS) return codings;
  const known = Object.keys(DECODERS).join(", ");
  throw new GatewayError(
    "unsupported_encoding",
    `A body with the content-encoding ${JSON.stringify(field)} is not read; there are: ${known}`,
  );
}

/** Undoes the codings of a body. Throws GatewayError: invalid_request, body_too_large. */
export async function decodeBody(
  bytes: Uint8Array<ArrayBuffer>,
  codings: readonly string[],
  maxBytes: number,
): Promise<Uint8Array<ArrayBuffer>> {
  let plain = bytes;
  for (const coding of codings.toReversed()) plain = await decode(plain, coding, maxBytes);
  return plain;
}

function decode(bytes: Uint8Array, coding: string, maxBytes: number): Promise<Uint8Array<ArrayBuffer>> {
  return new Promise((resolve, reject) => {
    const decoder = DECODERS[coding](bytes);
    const pieces: Uint8Array[] = [];
    let length = 0;
    decoder.on("data", (piece: Uint8Array) => {
      length += piece.length;
      pieces.push(piece);
      if (length <= maxBytes) return;
      decoder.destroy();
      reject(
        new GatewayError(
          "body_too_large",
          `The request body is larger than ${maxBytes} bytes decoded (limits.body_bytes)`,
        ),
      );
    });
    decoder.on("error", (error: Error) => {
      reject(new GatewayError("invalid_request", `The request body is no ${coding}: ${error.message}`, null, error));
    });
    decoder.on("end", () => resolve(concat(pieces)));
    decoder.end(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength));
  });
}
