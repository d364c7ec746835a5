// SPDX-License-Identifier: Apache-2.0
// A call that came over HTTP: its request's head on the way in, and the fields that every answer carries on the way out.

import { GatewayError } from "../../base/errors.ts";
import { end } from "../../gateway/accounting.ts";
import { Call, type CallContext } from "../../gateway/call.ts";
import type { Kind } from "../../openai/api.ts";
import type { HeaderReader } from "../../gateway/routes.ts";
import { type HttpRequest, HttpResponse, pathOf } from "./exchange.ts";
import { errorBody } from "../../openai/errors.ts";
import { readIncoming } from "../../upstream/request_head.ts";

export interface HttpContext {
  readonly calls: CallContext;
  /** Value of `x-aigw-via`. */
  readonly via: string;
  /** Origins that browsers may call from; undefined without CORS. */
  readonly origins: readonly string[] | undefined;
  readonly status: {
    /** Answers end their connections, so that clients come back to another process. */
    readonly leaving: boolean;
  };
}

/** Fields of a request, and under the names of HTTP/2's pseudo-header fields what its line says. */
class RequestFields implements HeaderReader {
  constructor(readonly request: HttpRequest) {}

  get(name: string): string | null {
    if (!name.startsWith(":")) return this.request.fields.get(name);
    if (name === ":path") return this.request.target;
    if (name === ":method") return this.request.method;
    return name === ":authority" ? this.request.authority : null;
  }
}

/** Takes a request up; its client's leaving ends it. */
export function openCall({ calls }: HttpContext, request: HttpRequest, kind?: Kind): Call {
  const fields = readIncoming(request.fields, calls.ownFields);
  const { carrier } = request;
  const headers = new RequestFields(request);
  const call = new Call(calls, { kind, path: pathOf(request.target), fields, headers, carrier });
  request.whenLeft(call.cancellation.leave);
  return call;
}

/** Adds the fields that every answer carries. */
export function addHeaders(context: HttpContext, call: Call, response: HttpResponse): HttpResponse {
  const { via, origins, status } = context;
  response.append("x-request-id", call.requestId);
  response.append("x-aigw-via", via);
  if (status.leaving) response.append("connection", "close");
  if (call.context.exposeEndpoint && call.endpoint !== "") response.append("x-aigw-endpoint", call.endpoint);
  if (origins !== undefined) addOrigin(origins, call.incoming.fields.origin, response);
  if (call.account) call.context.limits.addHeaders(call.account.tenant, response);
  return response;
}

// Lets a browser's page from an allowed origin read the answer (Fetch standard, CORS protocol).
function addOrigin(origins: readonly string[], origin: string | undefined, response: HttpResponse): void {
  if (origin === undefined) return;
  const any = origins.includes("*");
  if (!any && !origins.includes(origin)) return;
  response.append("access-control-allow-origin", any ? "*" : origin);
  response.append("access-control-expose-headers", "*");
  if (!any) response.append("vary", "origin");
}

/** Ends a call with an error of the gateway's own. */
export function refuse(
  context: HttpContext,
  call: Call,
  error: GatewayError,
  more: Record<string, string> = {},
): HttpResponse {
  call.status = error.status;
  call.texts?.failed(error.message);
  end(call, error.code);
  const response = new HttpResponse(error.status, errorBody(error, call.kind));
  response.append("content-type", "application/json");
  response.append("x-aigw-reason", error.code);
  for (const [name, value] of Object.entries(more)) response.append(name, value);
  if (error.status === 503 || error.status === 429) {
    response.append("retry-after", String(Math.max(1, Math.ceil((error.retryAfterMs ?? 1_000) / 1_000))));
  }
  return addHeaders(context, call, response);
}
