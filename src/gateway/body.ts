// SPDX-License-Identifier: Apache-2.0
// Reads a request body whole, within its limits of size and time.

import type { Deadline, Deadlines } from "../base/deadlines.ts";
import { GatewayError } from "../base/errors.ts";

export interface BodyLimits {
  bytes: number;
  ms: number;
}

/** `announced` is the content-length, null without one. Throws GatewayError: body_too_large, request_timeout, client_closed. */
export function readBody(
  request: Request,
  announced: string | null,
  limits: BodyLimits,
  deadlines: Deadlines,
): Promise<Uint8Array> {
  if (announced !== null && Number(announced) > limits.bytes) return Promise.reject(tooLarge(limits.bytes));
  // Fast path, every SDK: the length is announced and within the limit.
  const reading = announced !== null ? request.bytes() : readCounted(request, limits.bytes);
  return new Promise((resolve, reject) => {
    const deadline: Deadline = {
      deadline: deadlines.clock.now() + limits.ms,
      place: -1,
      expire: () =>
        reject(new GatewayError("request_timeout", `The request body did not arrive within ${limits.ms} ms`)),
    };
    deadlines.watch(deadline);
    reading.then(
      (bytes) => {
        deadlines.unwatch(deadline);
        resolve(bytes);
      },
      (error) => {
        deadlines.unwatch(deadline);
        reject(
          error instanceof GatewayError ? error : new GatewayError("client_closed", "The client left", null, error),
        );
      },
    );
  });
}

async function readCounted(request: Request, most: number): Promise<Uint8Array> {
  if (request.body === null) return new Uint8Array(0);
  const pieces: Uint8Array[] = [];
  let length = 0;
  for await (const piece of request.body) {
    length += piece.length;
    if (length > most) throw tooLarge(most);
    pieces.push(piece);
  }
  const bytes = new Uint8Array(length);
  let at = 0;
  for (const piece of pieces) {
    bytes.set(piece, at);
    at += piece.length;
  }
  return bytes;
}

function tooLarge(most: number): GatewayError {
  return new GatewayError("body_too_large", `The request body is larger than ${most} bytes (limits.body_bytes)`);
}
