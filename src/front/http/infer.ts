// SPDX-License-Identifier: Apache-2.0
// An inference request over HTTP: authenticate by the head, read the body within its limits, let the pipeline decide and
// dispatch, relay the answer. A stream that waits for long gets its head before there is an answer.

import type { Deadlines } from "../../base/deadlines.ts";
import type { Config } from "../../config/schema.ts";
import type { Call } from "../../gateway/call.ts";
import type { AdmittedRequest, AnswerWatcher, Pipeline } from "../../gateway/pipeline.ts";
import type { Kind } from "../../openai/api.ts";
import { type BodyLimits, readBody } from "./body.ts";
import { EarlyHead } from "./early_head.ts";
import { checkHead } from "./head.ts";
import { type HttpContext, openCall, refuse } from "./http_call.ts";
import type { HttpRequest, HttpResponse } from "./exchange.ts";
import type { Leavers } from "./leavers.ts";
import { readForm } from "./form_body.ts";
import { relay } from "./relay.ts";

export interface InferenceParts {
  readonly config: Config;
  readonly context: HttpContext;
  readonly deadlines: Deadlines;
  readonly pipeline: Pipeline;
  readonly leavers: Leavers;
}

/**
 * Answers an inference request; never throws.
 * @param asked Path and query that the engine gets.
 */
export async function infer(
  parts: InferenceParts,
  request: HttpRequest,
  kind: Kind,
  asked = request.target,
): Promise<HttpResponse> {
  const { config, context, deadlines, pipeline, leavers } = parts;
  const call = openCall(context, request, kind);
  // Until there is a head the runtime does not tell that the client left.
  const { arrival } = request;
  const client = arrival && { arrival, since: call.started, place: -1, leave: call.cancellation.leave };
  if (client) leavers.watch(client);
  try {
    const target = checkHead(call, asked, config.limits);
    const tenant = call.authenticate();
    const limits = { bytes: config.limits.body_bytes, ms: config.timeouts.request_body_ms };
    const body = kind === "form"
      ? await readForm(request, call, limits)
      : arrived(request, call, limits) ?? await readWhole(request, call, limits);
    const admitted = pipeline.admit(call, { kind, tenant, target, ...body });

    // From here on it may take long: a stream's head goes out before that.
    const early = admitted.request.stream && request.carrier === undefined
      ? new EarlyHead(deadlines, context, call, {
        queuedMs: config.queue.head_after_ms,
        openedMs: config.timeouts.first_event_hold_ms,
        heartbeatMs: config.timeouts.heartbeat_ms,
      })
      : undefined;
    const answering = answer(parts, call, admitted, early ?? UNWATCHED);
    return early === undefined ? await answering : await early.race(answering);
  } catch (error) {
    return refuse(context, call, pipeline.asGatewayError(error, call));
  } finally {
    if (client) leavers.unwatch(client);
  }
}

// A body that came with its head needs no waiting.
function arrived(request: HttpRequest, call: Call, limits: BodyLimits) {
  const { contentEncoding, contentLength } = call.incoming.fields;
  if (contentEncoding !== undefined || Number(contentLength ?? 0) > limits.bytes) return undefined;
  const bytes = request.arrived?.();
  return bytes && { bytes };
}

async function readWhole(request: HttpRequest, call: Call, limits: BodyLimits) {
  const body = await readBody(request, call, limits);
  call.cancellation.unlimit();
  return body;
}

/** Of an answer that is no stream: its status is not known before it has come. */
const UNWATCHED: AnswerWatcher = { queued() {}, opened() {} };

// Never rejects.
async function answer(
  { config, context, deadlines, pipeline }: InferenceParts,
  call: Call,
  admitted: AdmittedRequest,
  watcher: AnswerWatcher,
): Promise<HttpResponse> {
  try {
    const { answer, grant, hideUsage, splitReasoning, stored } = await pipeline.answer(call, admitted, watcher);
    // From here on the grant belongs to the answer.
    const { client_stall_ms: clientStallMs, heartbeat_ms: heartbeatMs } = config.timeouts;
    const options = { context, deadlines, clientStallMs, heartbeatMs, hideUsage, splitReasoning, stored };
    return relay({ answer, grant, call, kind: admitted.request.kind, options });
  } catch (error) {
    return refuse(context, call, pipeline.asGatewayError(error, call));
  }
}
