// SPDX-License-Identifier: Apache-2.0
// A call that came over HTTP: its request's head on the way in, and the fields that every answer carries on the way out.

import { GatewayError } from "../../base/errors.ts";
import { end } from "../../gateway/accounting.ts";
import { Call, type CallContext } from "../../gateway/call.ts";
import type { Kind } from "../../openai/api.ts";
import type { HeaderReader } from "../../gateway/routes.ts";
import { targetOf } from "./head.ts";
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
  constructor(readonly request: Request) {}

  get(name: string): string | null {
    const { headers, method, url } = this.request;
    if (!name.startsWith(":")) return headers.get(name);
    if (name === ":path") return targetOf(url);
    if (name === ":method") return method;
    return name === ":authority" ? headers.get("host") ?? new URL(url).host : null;
  }
}

/** Takes a request up; its client's leaving ends it. */
export function openCall({ calls }: HttpContext, request: Request, kind?: Kind): Call {
  const { headers, signal } = request;
  const fields = readIncoming(headers, calls.ownFields);
  const call = new Call(calls, { kind, fields, headers: new RequestFields(request) });
  // At once: a signal that is first asked for after the client has left does not tell.
  signal.addEventListener("abort", call.cancellation.leave);
  return call;
}

/** Adds the fields that every answer carries. Appending costs less than half of handing a list to Response. */
export function addHeaders(context: HttpContext, call: Call, response: Response): Response {
  const { via, origins, status } = context;
  const { headers } = response;
  headers.append("x-request-id", call.requestId);
  headers.append("x-aigw-via", via);
  if (status.leaving) headers.append("connection", "close");
  if (call.context.exposeEndpoint && call.endpoint !== "") headers.append("x-aigw-endpoint", call.endpoint);
  if (origins !== undefined) addOrigin(origins, call.incoming.fields.origin, headers);
  if (call.account) call.context.limits.addHeaders(call.account.tenant, headers);
  return response;
}

// Lets a browser's page from an allowed origin read the answer (Fetch standard, CORS protocol).
function addOrigin(origins: readonly string[], origin: string | undefined, headers: Headers): void {
  if (origin === undefined) return;
  const any = origins.includes("*");
  if (!any && !origins.includes(origin)) return;
  headers.append("access-control-allow-origin", any ? "*" : origin);
  headers.append("access-control-expose-headers", "*");
  if (!any) headers.append("vary", "origin");
}

/** Ends a call with an error of the gateway's own. */
export function refuse(
  context: HttpContext,
  call: Call,
  error: GatewayError,
  more: Record<string, string> = {},
): Response {
  call.status = error.status;
  call.texts?.failed(error.message);
  end(call, error.code);
  const headers: Record<string, string> = {
    "content-type": "application/json",
    "x-aigw-reason": error.code,
    ...more,
  };
  if (error.status === 503 || error.status === 429) {
    headers["retry-after"] = String(Math.max(1, Math.ceil((error.retryAfterMs ?? 1_000) / 1_000)));
  }
  return addHeaders(context, call, new Response(errorBody(error, call.kind), { status: error.status, headers }));
}
