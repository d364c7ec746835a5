// SPDX-License-Identifier: Apache-2.0
// The story of a request, from top to bottom:
//
//   read ─► decode ─► route ─► prompt ─► slot ─► dispatch ─► relay
//
// Each stage takes and returns plain values and throws GatewayError; only this file knows their order. The slot carries
// the request's load: it is released when its block ends, or, once the answer has begun, when the answer ends.

import type { Deadline, Deadlines } from "../base/deadlines.ts";
import { GatewayError } from "../base/errors.ts";
import type { Config } from "../config/schema.ts";
import { replaceModelName } from "../openai/model_name.ts";
import { promptText } from "../openai/prompt_text.ts";
import { decodeRequest, type Endpoint } from "../openai/request.ts";
import type { DecisionMaker } from "../scheduler/decision.ts";
import type { Scheduler, Slot } from "../scheduler/scheduler.ts";
import { predictTtftMs } from "../scheduler/ttft.ts";
import type { Log } from "../telemetry/log.ts";
import { readBody } from "./body.ts";
import type { Dispatcher } from "./dispatch.ts";
import { Exchange, type ExchangeContext } from "./exchange.ts";
import { relay } from "./relay.ts";
import type { RouteTable } from "./routes.ts";

export interface PipelineParts {
  readonly config: Config;
  readonly context: ExchangeContext;
  readonly deadlines: Deadlines;
  readonly routes: RouteTable;
  readonly decisions: DecisionMaker;
  readonly scheduler: Scheduler;
  readonly dispatcher: Dispatcher;
  readonly log: Log;
}

const INFERENCE_PATHS = new Map<string, Endpoint>([
  ["/v1/chat/completions", "chat"],
  ["/v1/completions", "completion"],
]);

export class Pipeline {
  readonly #parts: PipelineParts;
  readonly #started = Math.floor(Date.now() / 1000);

  constructor(parts: PipelineParts) {
    this.#parts = parts;
  }

  /** Answers a client's request; never throws. */
  handle(request: Request): Response | Promise<Response> {
    const path = pathOf(request.url);
    const endpoint = INFERENCE_PATHS.get(path);
    if (endpoint !== undefined) {
      return request.method === "POST" ? this.#infer(request, endpoint) : this.#wrongMethod(request, path, "POST");
    }
    if (path === "/v1/models") {
      return request.method === "GET" ? this.#models(request) : this.#wrongMethod(request, path, "GET");
    }
    return new Exchange(this.#parts.context, request).refuse(
      new GatewayError(
        "route_not_found",
        `There is no path ${path.slice(0, 200)}; there are: /v1/chat/completions /v1/completions /v1/models`,
      ),
    );
  }

  async #infer(request: Request, endpoint: Endpoint): Promise<Response> {
    const { config, context, deadlines, routes, decisions, scheduler, dispatcher } = this.#parts;
    const exchange = new Exchange(context, request);
    try {
      // Read: the whole body, within its limits.
      const limits = { bytes: config.limits.body_bytes, ms: config.timeouts.request_body_ms };
      const bytes = await readBody(request, exchange.incoming.contentLength, limits, deadlines);

      // Decode: one parse; the engine gets the bytes as they came.
      const { request: call, text } = decodeRequest(endpoint, bytes);

      // Route: model and headers to a cluster, its eligible endpoints and a policy.
      const route = routes.resolve(call.model, request.headers);
      exchange.routed(call, route);
      const body = route.targetModel === "" ? bytes : encode(replaceModelName(text, route.targetModel));
      this.#checkHeaders(exchange);

      // Prompt: the canonical text that prefixes are hashes of.
      const prompt = promptText(call, decisions.digest);

      // Slot: the endpoint that will answer first, with this request's load counted on it.
      using slot = await scheduler.acquire(
        { placement: route.placement, promptText: prompt, model: route.model, wallMs: context.clock.wall() },
        exchange.signal,
      );
      exchange.promptBytes = slot.prompt.bytes;

      // Dispatch: to that endpoint, or to another if it fails before it answers.
      using presumption = call.stream ? undefined : this.#presumeFirstToken(slot);
      const outgoing = { target: targetOf(request.url), fields: exchange.incoming.fields, body };
      const answer = await dispatcher.dispatch(slot, exchange, outgoing, () => presumption?.again());
      exchange.matchedChunks = slot.matchedChunks;

      // Relay: the answer as it comes. From here on the slot belongs to it.
      return await relay(answer, slot.keep(), exchange, {
        deadlines,
        clientStallMs: config.timeouts.client_stall_ms,
      });
    } catch (error) {
      return exchange.refuse(this.#asGatewayError(error, exchange));
    }
  }

  #checkHeaders({ incoming }: Exchange): void {
    const most = this.#parts.config.limits.endpoint_header_bytes;
    if (incoming.fields.length > most) {
      throw new GatewayError("headers_too_large", `The request headers are larger than ${most} bytes`);
    }
  }

  // A non-streaming request shows no first token: its prompt load comes off when the prefill is over by prediction,
  // counted again from each endpoint that it is sent to.
  #presumeFirstToken(slot: Slot): Disposable & { again(): void } {
    const { deadlines, config: { prediction } } = this.#parts;
    const ms = predictTtftMs(slot.prompt.bytes / prediction.bytes_per_token) * prediction.first_token_margin;
    const deadline: Deadline = { deadline: deadlines.clock.now() + ms, place: -1, expire: () => slot.firstToken() };
    deadlines.watch(deadline);
    return {
      again() {
        deadline.deadline = deadlines.clock.now() + ms;
        deadlines.watch(deadline);
      },
      [Symbol.dispose]: () => deadlines.unwatch(deadline),
    };
  }

  #models(request: Request): Response {
    const exchange = new Exchange(this.#parts.context, request);
    const data = [...this.#parts.routes.models].map((id) => ({
      id,
      object: "model",
      created: this.#started,
      owned_by: "aigw",
    }));
    exchange.status = 200;
    exchange.end("ok");
    return exchange.addHeaders(Response.json({ object: "list", data }));
  }

  #wrongMethod(request: Request, path: string, allowed: string): Response {
    return new Exchange(this.#parts.context, request).refuse(
      new GatewayError("method_not_allowed", `${path} takes ${allowed}, not ${request.method}`),
      { allow: allowed },
    );
  }

  #asGatewayError(error: unknown, exchange: Exchange): GatewayError {
    if (error instanceof GatewayError) return error;
    if (exchange.signal.aborted) return new GatewayError("client_closed", "The client left", null, error);
    this.#parts.log.error("a request failed inside the gateway", {
      request_id: exchange.requestId,
      error: error instanceof Error ? error.stack : String(error),
    });
    return new GatewayError("internal", "The gateway failed to handle this request", null, error);
  }
}

const encoder = new TextEncoder();
function encode(text: string): Uint8Array {
  return encoder.encode(text);
}

/** Path and query of an absolute URL. */
function targetOf(url: string): string {
  return url.slice(url.indexOf("/", url.indexOf("://") + 3));
}

/** Path of an absolute URL without its query. */
export function pathOf(url: string): string {
  const start = url.indexOf("/", url.indexOf("://") + 3);
  if (start < 0) return "/";
  const end = url.indexOf("?", start);
  return end < 0 ? url.slice(start) : url.slice(start, end);
}
