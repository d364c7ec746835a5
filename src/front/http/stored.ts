// SPDX-License-Identifier: Apache-2.0
// Requests for a stored response, handed to the engine that holds it: GET and DELETE, its input items, its cancellation.

import type { Deadlines } from "../../base/deadlines.ts";
import { GatewayError } from "../../base/errors.ts";
import type { Config } from "../../config/schema.ts";
import type { Dispatcher } from "../../gateway/dispatch.ts";
import type { StoredResponses } from "../../gateway/stored_responses.ts";
import type { EndpointDirectory } from "../../tables/endpoint_directory.ts";
import type { Transport } from "../../upstream/transport.ts";
import type { HttpRequest, HttpResponse } from "./exchange.ts";
import { readBody } from "./body.ts";
import { checkHead } from "./head.ts";
import { type HttpContext, openCall, refuse } from "./http_call.ts";
import { NO_GRANT, relay } from "./relay.ts";

const EMPTY: Uint8Array<ArrayBuffer> = new Uint8Array(0);

export interface StoredParts {
  readonly config: Config;
  readonly context: HttpContext;
  readonly deadlines: Deadlines;
  readonly responses: StoredResponses;
  readonly dispatcher: Dispatcher;
  readonly directory: EndpointDirectory;
  /** How the engines of an endpoint's cluster are reached. */
  transportOf(row: number): Transport;
}

/** Hands a request for a stored response to its engine; never throws. */
export async function passStored(parts: StoredParts, request: HttpRequest, id: string): Promise<HttpResponse> {
  const { config: { limits, timeouts }, context, deadlines, responses, dispatcher, directory } = parts;
  const call = openCall(context, request, "responses");
  try {
    const target = checkHead(call, request.target, limits);
    const tenant = call.authenticate();
    const row = responses.rowOf(id, tenant);
    if (row === undefined) {
      throw new GatewayError("response_not_found", `The response ${JSON.stringify(id)} is not known here`);
    }
    const reading = { bytes: limits.body_bytes, ms: timeouts.request_body_ms };
    const body = request.method === "POST" ? (await readBody(request, call, reading)).bytes : EMPTY;
    call.cancellation.unlimit();
    const { fields } = call.incoming.fields;
    const outgoing = { method: request.method, target, fields, body };
    const answer = await dispatcher.direct(directory.of(row), call, outgoing, parts.transportOf(row));
    const options = {
      context,
      deadlines,
      clientStallMs: timeouts.client_stall_ms,
      heartbeatMs: timeouts.heartbeat_ms,
      hideUsage: false,
      splitReasoning: undefined,
      stored: undefined,
    };
    return relay({ answer, grant: NO_GRANT, call, kind: "responses", options });
  } catch (error) {
    const known = error instanceof GatewayError ? error : new GatewayError("internal", String(error));
    return refuse(context, call, known);
  }
}
