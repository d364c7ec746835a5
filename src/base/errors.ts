// SPDX-License-Identifier: Apache-2.0
// Every error that the gateway itself answers with: one closed set of codes, one table with the status and the error
// type that the OpenAI SDKs turn into their exception classes.

const TABLE = {
  invalid_json: [400, "BadRequestError"],
  invalid_request: [400, "BadRequestError"],
  model_not_found: [404, "NotFoundError"],
  route_not_found: [404, "NotFoundError"],
  response_not_found: [404, "NotFoundError"],
  method_not_allowed: [405, "BadRequestError"],
  request_timeout: [408, "BadRequestError"],
  body_too_large: [413, "BadRequestError"],
  unsupported_encoding: [415, "BadRequestError"],
  url_too_long: [414, "BadRequestError"],
  headers_too_large: [431, "BadRequestError"],
  unauthorized: [401, "AuthenticationError"],
  model_not_allowed: [403, "PermissionDeniedError"],
  forbidden: [403, "PermissionDeniedError"],
  rate_limited: [429, "RateLimitError"],
  tenant_concurrency: [429, "RateLimitError"],
  saturated: [429, "RateLimitError"],
  queue_full: [429, "RateLimitError"],
  queue_timeout: [429, "RateLimitError"],
  slo_unreachable: [429, "RateLimitError"],
  preempted: [429, "RateLimitError"],
  client_closed: [499, "BadRequestError"],
  internal: [500, "InternalServerError"],
  not_supported: [501, "InternalServerError"],
  upstream_failed: [502, "InferenceServerError"],
  no_endpoint: [503, "InferenceServerError"],
  overloaded: [503, "InferenceServerError"],
  draining: [503, "InferenceServerError"],
  upstream_timeout: [504, "InferenceServerError"],
  deadline_exceeded: [504, "InferenceServerError"],
} as const satisfies Record<string, readonly [number, string]>;

/** Machine-readable reason, in `error.code` of the body and the `x-aigw-reason` header. */
export type ErrorCode = keyof typeof TABLE;

export const ERROR_CODES = Object.keys(TABLE) as ErrorCode[];

/** An error with an HTTP status, answered in OpenAI's shape. */
export class GatewayError extends Error {
  override readonly name = "GatewayError";
  readonly status: number;
  readonly type: string;

  /** When it may be worth trying again; undefined for the usual second after 429 and 503. */
  retryAfterMs: number | undefined;

  constructor(readonly code: ErrorCode, message: string, readonly param: string | null = null, cause?: unknown) {
    super(message, { cause });
    [this.status, this.type] = TABLE[code];
  }

  /** Says when to come back. */
  after(ms: number): this {
    this.retryAfterMs = ms;
    return this;
  }
}
