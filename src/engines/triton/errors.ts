// SPDX-License-Identifier: Apache-2.0
// Heads and error bodies of the answers that are made from Triton's.

import type { ResponseHead } from "../../upstream/response_head.ts";

const encoder = new TextEncoder();

/** The head of an answer that the gateway writes itself. */
export function headOf(status: number, stream: boolean): ResponseHead {
  const type = stream ? "text/event-stream" : "application/json";
  return { status, headers: [["content-type", type]], framing: { kind: "close" }, keepAlive: false };
}

const TYPES: Record<number, string> = { 400: "BadRequestError", 404: "NotFoundError", 429: "RateLimitError" };

/** What an engine refused, in OpenAI's shape. */
export function engineError(status: number, message: string): Uint8Array<ArrayBuffer> {
  const type = TYPES[status] ?? "InternalServerError";
  return encoder.encode(JSON.stringify({ error: { message, type, param: null, code: status } }));
}
