// SPDX-License-Identifier: Apache-2.0
// Error answers as a body and as an event of a stream, in the dialect of the path that was asked: OpenAI's
// `{"error": {"message", "type", "param", "code"}}`, or Anthropic's `{"type": "error", "error": {"type", "message"}}`.

import type { GatewayError } from "../base/errors.ts";
import { dialectOf, type Kind } from "./api.ts";

const ANTHROPIC_TYPES: Record<number, string> = {
  400: "invalid_request_error",
  401: "authentication_error",
  403: "permission_error",
  404: "not_found_error",
  413: "request_too_large",
  429: "rate_limit_error",
  503: "overloaded_error",
};

/** The JSON body of an error. */
export function errorBody(error: GatewayError, kind?: Kind): string {
  const { message, type, param, code, status } = error;
  if (dialectOf(kind) === "anthropic") {
    return JSON.stringify({ type: "error", error: { type: ANTHROPIC_TYPES[status] ?? "api_error", message } });
  }
  return JSON.stringify({ error: { message, type, param, code } });
}

/** The events that end a stream which broke. */
export function errorEvents(error: GatewayError, kind: Kind): string {
  const body = errorBody(error, kind);
  switch (dialectOf(kind)) {
    case "anthropic":
      return `event: error\ndata: ${body}\n\n`;
    case "responses": {
      const { message, param, code } = error;
      return `event: error\ndata: ${JSON.stringify({ type: "error", code, message, param })}\n\n`;
    }
    default:
      return `data: ${body}\n\ndata: [DONE]\n\n`;
  }
}

/**
 * The error that an event's data holds, in OpenAI's shape, or undefined: nested as OpenAI sends it, flat as SGLang does
 * (`{"object": "error", "message", …}`), or a bare text; Anthropic's stays as it is.
 */
export function errorOf(data: unknown): Record<string, unknown> | undefined {
  if (typeof data !== "object" || data === null) return undefined;
  const fields = data as Record<string, unknown>;
  if (fields.type === "response.failed") {
    return { error: (fields.response as { error?: unknown } | null | undefined)?.error ?? { message: "" } };
  }
  const { error } = fields;
  if (typeof error === "object" && error !== null) {
    return fields.type === "error" ? { type: "error", error } : { error };
  }
  if (typeof error === "string") {
    return { error: { message: error, type: "InferenceServerError", param: null, code: null } };
  }
  if (fields.object !== "error" && fields.type !== "error") return undefined;
  const { message = "", type = "BadRequestError", param = null, code = null } = fields;
  return { error: { message, type, param, code } };
}

/** HTTP status of an engine's error: its own code, 400 where its words blame the request, else 500. */
export function statusOfError(body: Record<string, unknown>): number {
  const { code, type } = body.error as { code?: unknown; type?: unknown };
  const number = Number(code);
  if (Number.isInteger(number) && number >= 400 && number <= 599) return number;
  if (type === "rate_limit_error" || type === "overloaded_error") return 429;
  return OF_REQUESTS.test(`${typeof code === "string" ? code : ""} ${typeof type === "string" ? type : ""}`)
    ? 400
    : 500;
}

const OF_REQUESTS =
  /bad_?request|invalid|not_?found|unprocessable|authentication|permission|forbidden|too_large|exceeded|unsupported/i;

/** Whether an engine's error is a failure of the engine, and not of the request or a plea for patience. */
export function blamesEngine(body: Record<string, unknown>): boolean {
  return statusOfError(body) >= 500;
}
