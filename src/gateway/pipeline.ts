// SPDX-License-Identifier: Apache-2.0
// The story of a request, from top to bottom:
//
//   authenticate ─► read ─► decode ─► route ─► prompt ─► transcode ─► admit ─► slot ─► dispatch ─► relay
//
// Each stage takes and returns plain values and throws GatewayError; only this file knows their order. The slot carries
// the request's load: it is released when its block ends, or, once the answer has begun, when the answer ends.

import type { Admission, Admitted } from "../admission/admission.ts";
import type { Tenant } from "../admission/tenants.ts";
import type { Deadline, Deadlines } from "../base/deadlines.ts";
import { GatewayError } from "../base/errors.ts";
import type { Config } from "../config/schema.ts";
import { generates, type Kind } from "../openai/api.ts";
import { type PromptOptions, promptText } from "../openai/prompt_text.ts";
import { decodeRequest, type InferenceRequest } from "../openai/request.ts";
import type { DecisionMaker } from "../scheduler/decision.ts";
import { withoutCache } from "../scheduler/placement.ts";
import type { Scheduler, Slot } from "../scheduler/scheduler.ts";
import type { Log } from "../telemetry/log.ts";
import { UpstreamError } from "../upstream/errors.ts";
import { readBody } from "./body.ts";
import { asGatewayError, type Dispatcher, type OutgoingRequest } from "./dispatch.ts";
import { EarlyHead } from "./early_head.ts";
import { Exchange, type ExchangeContext } from "./exchange.ts";
import { checkHead } from "./head.ts";
import { asksForUsage, outgoingBody } from "./outgoing.ts";
import { relay } from "./relay.ts";
import type { Route, RouteTable } from "./routes.ts";
import type { StoredResponses } from "./stored_responses.ts";
import type { TritonTranscoder } from "./triton/transcoder.ts";

export interface PipelineParts {
  readonly config: Config;
  readonly context: ExchangeContext;
  readonly deadlines: Deadlines;
  readonly routes: RouteTable;
  readonly decisions: DecisionMaker;
  readonly scheduler: Scheduler;
  readonly dispatcher: Dispatcher;
  readonly responses: StoredResponses;
  readonly triton: TritonTranscoder;
  readonly admission: Admission;
  /** Tokens that a request will probably take, by its model, prompt length and own limit. */
  usageEstimate(
    model: number,
    promptBytes: number,
    most: number | undefined,
  ): { inputTokens: number; outputTokens: number };
  readonly log: Log;
}

/** A request that is ready to be placed. */
interface Prepared {
  readonly exchange: Exchange;
  readonly kind: Kind;
  readonly call: InferenceRequest;
  readonly route: Route;
  readonly prompt: string;
  readonly outgoing: OutgoingRequest;
  readonly early: EarlyHead | undefined;
  readonly tenant: Tenant;
  readonly admitted: Admitted;
}

export class Pipeline {
  readonly #parts: PipelineParts;
  readonly #prompts: PromptOptions;

  constructor(parts: PipelineParts) {
    this.#parts = parts;
    this.#prompts = { digest: parts.decisions.digest, payloadCharacters: parts.config.limits.payload_characters };
  }

  /** Answers an inference request; never throws. */
  async infer(request: Request, kind: Kind): Promise<Response> {
    const { config, context, deadlines, routes, admission, usageEstimate } = this.#parts;
    const exchange = new Exchange(context, request, kind);
    try {
      // Read: the whole body, within its limits.
      const target = checkHead(exchange, request.url, config.limits);

      // Authenticate: before its body is read.
      const tenant = exchange.authenticate();
      const limits = { bytes: config.limits.body_bytes, ms: config.timeouts.request_body_ms };
      const bytes = await readBody(request, exchange, limits);
      exchange.unlimit();

      // Decode: one parse; the engine gets the bytes as they came.
      const call = decodeRequest(kind, bytes);

      // Route: model and headers to a cluster, its eligible endpoints and a policy.
      const route = routes.resolve(call.model, request.headers);
      exchange.routed(call, route);

      // Prompt: the canonical text that prefixes are hashes of.
      const prompt = promptText(call, this.#prompts);

      // Transcode: what this kind of engine is to get.
      const outgoing = this.#outgoing(call, route, bytes, target, exchange);

      // Admit: the tenant's limits, reserved by estimate; its place in the queue.
      const tokens = usageEstimate(route.model, prompt.length, call.mostTokens);
      const admitted = admission.enter({
        tenant,
        model: call.model,
        cluster: route.placement.cluster,
        priority: exchange.incoming.priority,
        ...tokens,
        ttftSloMs: Number(exchange.incoming.ttftSloMs ?? route.placement.policy.ttftSloMs),
      });
      exchange.books!.hold(admitted.reservation);

      // From here on it may take long: a stream's head goes out before that.
      const early = call.stream && route.placement.policy.queued ? new EarlyHead(deadlines, exchange, kind) : undefined;
      const answering = this.#answer({ exchange, kind, call, route, prompt, outgoing, early, tenant, admitted });
      return await (early === undefined ? answering : early.race(answering));
    } catch (error) {
      return exchange.refuse(this.#asGatewayError(error, exchange));
    }
  }

  // The part of the story that waits: for an endpoint, and for its answer. Never rejects.
  async #answer(
    { exchange, kind, call, route, prompt, outgoing, early, tenant, admitted }: Prepared,
  ): Promise<Response> {
    const { config, deadlines, scheduler, dispatcher, responses } = this.#parts;
    let waitsSince: number | undefined;
    try {
      // Slot: the endpoint that will answer first, with this request's load counted on it.
      using slot = await scheduler.acquire({
        placement: generates(kind) ? route.placement : withoutCache(route.placement),
        promptText: prompt,
        model: route.model,
        standing: {
          band: admitted.band,
          tenant: tenant.row,
          deadlineMs: admitted.deadlineMs,
          concurrency: tenant.limits.concurrency,
          queued: tenant.limits.queued,
        },
        objectives: {
          ttftMs: Number(exchange.incoming.ttftSloMs ?? route.placement.policy.ttftSloMs),
          tpotMs: Number(exchange.incoming.tpotSloMs ?? route.placement.policy.tpotSloMs),
        },
        preempt: exchange.preempt,
        hidden: !call.stream,
        pinned: responses.holder(call.previousResponse, tenant, route.placement),
        hold(waiting) {
          waitsSince = deadlines.clock.now();
          exchange.hold(waiting);
          early?.wait(config.queue.head_after_ms);
        },
      });
      waitsSince = undefined;
      exchange.promptBytes = slot.prompt.bytes;
      exchange.queuedMs = slot.queuedMs;

      // Dispatch: to that endpoint, or to another if it fails before anything of its answer went on.
      using presumption = call.stream ? undefined : this.#presumeFirstToken(slot);
      const answer = await dispatcher.dispatch(slot, exchange, outgoing, () => presumption?.again());
      exchange.matchedBytes = slot.matchedBytes;

      // Relay: the answer as it comes. From here on the slot belongs to it.
      return relay(answer, slot.keep(), exchange, kind, {
        deadlines,
        clientStallMs: config.timeouts.client_stall_ms,
        hideUsage: call.stream && !asksForUsage(call) && (config.usage_accounting || route.rule.backend === "triton"),
        splitReasoning: config.split_reasoning && kind === "chat",
        stored: kind === "responses" ? (id) => responses.store(id, slot.endpoint, tenant) : undefined,
      });
    } catch (error) {
      if (waitsSince !== undefined) exchange.queuedMs = deadlines.clock.now() - waitsSince;
      return exchange.refuse(this.#asGatewayError(error, exchange));
    }
  }

  #outgoing(call: InferenceRequest, route: Route, bytes: Uint8Array<ArrayBuffer>, target: string, exchange: Exchange) {
    const { config, triton } = this.#parts;
    const { fields } = exchange.incoming;
    if (route.rule.backend === "triton") return triton.outgoing(call, route.rule, fields);
    const body = outgoingBody(call, bytes, route.targetModel, config.usage_accounting);
    return { method: "POST", target, fields, body };
  }

  // A non-streaming request shows no first token: its prompt load comes off when the prefill is over by prediction,
  // counted again from each endpoint that it is sent to.
  #presumeFirstToken(slot: Slot): Disposable & { again(): void } {
    const { deadlines, config: { prediction } } = this.#parts;
    const ms = slot.predictMs() * prediction.first_token_margin;
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

  #asGatewayError(error: unknown, exchange: Exchange): GatewayError {
    if (error instanceof GatewayError) return error;
    if (error instanceof UpstreamError) return asGatewayError(error, exchange);
    if (exchange.gone) return new GatewayError("client_closed", "The client left", null, error);
    this.#parts.log.error("a request failed inside the gateway", {
      request_id: exchange.requestId,
      error: error instanceof Error ? error.stack : String(error),
    });
    return new GatewayError("internal", "The gateway failed to handle this request", null, error);
  }
}
