// SPDX-License-Identifier: Apache-2.0
// The story of an inference request, whatever door it came in by, from top to bottom:
//
//   decode ─► route ─► prompt ─► prepare ─► admit ─► decide ─► dispatch
//
// Before it a front reads the request and authenticates it, after it a front brings the answer to the client
// (src/front/http/infer.ts). Each stage takes and returns plain values and throws GatewayError; only this file knows their
// order. The grant carries the request's load: it is released when its scope ends, or, once the answer has begun, when
// the answer ends.

import type { Admission, Admitted, UsageEstimate } from "../admission/admission.ts";
import type { Tenant } from "../admission/tenants.ts";
import type { Deadlines } from "../base/deadlines.ts";
import { GatewayError } from "../base/errors.ts";
import { utf8Length } from "../base/utf8.ts";
import type { Config } from "../config/schema.ts";
import type { Backend } from "../engines/backends.ts";
import type { Engine, PreparedRequest } from "../engines/engine.ts";
import { asksForUsage } from "../engines/openai_body.ts";
import { generates, type Kind } from "../openai/api.ts";
import type { ReasoningStart } from "../openai/reasoning.ts";
import { type PromptOptions, promptText } from "../openai/prompt_text.ts";
import { decodeShortened, type ShortBody } from "../openai/payloads.ts";
import { decodeForm, decodeRequest, type InferenceRequest } from "../openai/request.ts";
import type { HashedPrompt } from "../scheduler/cache_knowledge.ts";
import type { ScannedPrompt } from "../scheduler/body_scan.ts";
import type { DecisionMaker } from "../scheduler/decision.ts";
import type { AwaitedBlocks } from "../scheduler/known_blocks.ts";
import { withoutCache } from "../scheduler/placement.ts";
import { presumeFirstToken } from "../scheduler/presumption.ts";
import type { Grant, QueueLimits, Scheduler } from "../scheduler/scheduler.ts";
import { WORKER_CELLS } from "../telemetry/cells.ts";
import type { Log } from "../telemetry/log.ts";
import type { FormField } from "../openai/form.ts";
import type { BodyRest } from "../upstream/body_rest.ts";
import type { PromptTokens } from "../tokens/prompt_tokens.ts";
import { UpstreamError } from "../upstream/errors.ts";
import type { ResponseHead } from "../upstream/response_head.ts";
import type { Answer } from "./answer.ts";
import type { Call } from "./call.ts";
import type { DecisionWatch } from "./decision_watch.ts";
import { asGatewayError, type Dispatcher } from "./dispatch.ts";
import { hedge, type HedgeParts } from "./hedge.ts";
import { ANY_MODEL, type Route, type RouteTable } from "./routes.ts";
import type { StoredResponses } from "./stored_responses.ts";

export interface PipelineParts {
  readonly config: Config;
  readonly deadlines: Deadlines;
  readonly routes: RouteTable;
  readonly decisions: DecisionMaker;
  readonly scheduler: Scheduler;
  readonly queue: QueueLimits;
  readonly dispatcher: Dispatcher;
  readonly responses: StoredResponses;
  readonly engines: Readonly<Record<Backend, Engine>>;
  readonly admission: Admission;
  /** Is told decisions while somebody watches. */
  readonly watch?: DecisionWatch;
  /** Tokens of prompts, of models with a tokenizer. */
  readonly tokens?: PromptTokens;
  /** Second attempts of late streams; undefined for none. */
  readonly hedging?: HedgeParts;
  /** Tokens that a request will probably take, by its model, prompt length and own limit. */
  usageEstimate(model: number, promptBytes: number, maxTokens: number | undefined): UsageEstimate;
  readonly log: Log;
}

/** A request as it came, and who it is from. */
export interface ReceivedRequest {
  readonly kind: Kind;
  readonly tenant: Tenant;
  /** Its path and query. */
  readonly target: string;
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** The same for being parsed, large payloads replaced by digests; undefined where there are none. */
  readonly short?: ShortBody;
  /** Of a form: its model, and what of its body is still to come. */
  readonly model?: FormField;
  readonly rest?: BodyRest;
}

/** A request that was let in and is ready to be placed. */
export interface AdmittedRequest {
  readonly request: InferenceRequest;
  readonly route: Route;
  readonly prompt: string | ScannedPrompt;
  readonly prepared: PreparedRequest;
  /** What of its body is still to come. */
  readonly rest: BodyRest | undefined;
  readonly tenant: Tenant;
  readonly admitted: Admitted;
  /** Its prompt's tokens, on their way; undefined where they are of no use. */
  readonly blocks: AwaitedBlocks | undefined;
}

/** An answer that may go on to the client, with the grant that it is given under. */
export interface Answered {
  readonly answer: Answer;
  readonly grant: Grant;
  /** The usage chunk is the gateway's own: the client did not ask for it. */
  readonly hideUsage: boolean;
  /** Who opens the reasoning that is split off; undefined where none is. */
  readonly splitReasoning: ReasoningStart | undefined;
  /** Is told the id of a stored response. */
  readonly stored: ((id: string) => void) | undefined;
}

/** Is told on the way of an answer what may take long. */
export interface AnswerWatcher {
  /** The request has to wait for an endpoint. */
  queued(): void;
  /** An engine has begun a stream whose first token may be long in coming. */
  opened(head: ResponseHead): void;
}

// Of a prompt whose tokens are known, those that so many of its bytes are.
function knownTokens({ bytes, asked }: HashedPrompt, matched: number): number | undefined {
  const tokens = asked?.blocks?.tokens;
  return tokens === undefined ? undefined : Math.floor(matched * tokens / bytes + 1e-9);
}

/** Bodies of more than so many bytes for each byte of their prompt are not tokenised, unless they are small. */
const MOST_BYTES_A_BYTE = 8;
const SMALL_BODY_BYTES = 65_536;

function splitOf(option: Config["split_reasoning"]): ReasoningStart | undefined {
  if (typeof option === "boolean") return option ? "answer" : undefined;
  return option.opened_by_template ? "template" : "answer";
}

export class Pipeline {
  readonly #parts: PipelineParts;
  readonly #prompts: PromptOptions;
  readonly #tenantsApart: boolean;

  constructor(parts: PipelineParts) {
    this.#parts = parts;
    const { limits, metadata_center, tenants, tenancy } = parts.config;
    this.#tenantsApart = tenants.length > 0 || tenancy.trust_headers;
    this.#prompts = {
      digest: parts.decisions.digest,
      payloadCharacters: limits.payload_characters,
      goChats: metadata_center.go_prefixes,
    };
  }

  /** Everything that needs no waiting. Throws GatewayError. */
  admit(call: Call, { kind, tenant, target, bytes, short, model, rest }: ReceivedRequest): AdmittedRequest {
    const { engines, decisions, admission, usageEstimate } = this.#parts;
    const { fields } = call.incoming;

    if (kind !== "form") call.texts?.asked(bytes);

    // Decode: what is decided by is taken from the bytes, or from what they are parsed to; the engine gets them as they came.
    const scans = kind === "chat" && !this.#prompts.goChats && short === undefined;
    const scanned = scans ? decisions.scan(bytes, this.#textOf) : undefined;
    let request = call.request = scanned?.request ??
      (kind === "form" ? decodeForm(model) : short ? decodeShortened(kind, short) : decodeRequest(kind, bytes));

    // Route: model and headers to a cluster, its eligible endpoints and a policy.
    const route = call.route = this.#route(call, request);
    // An engine that is sent something else than the body wants all of it.
    if (short && engines[route.rule.backend].rewrites) request = call.request = decodeRequest(kind, bytes);

    // Prompt: the canonical text that prefixes are hashes of.
    const prompt = scanned?.prompt ?? this.#textOf(request);
    const promptBytes = typeof prompt === "string" ? utf8Length(prompt) : prompt.bytes;

    // Prepare: what this kind of engine is to get.
    const { rule, targetModel } = route;
    const engine = engines[rule.backend];
    const prepared = engine.prepare(
      { request, bytes, target, targetModel, usageAccounting: this.#asksForUsage(call) },
      rule,
    );

    // Admit: the tenant's limits, reserved by estimate; its place in the queue.
    const { policy, cluster } = route.placement;
    const admitted = admission.enter({
      tenant,
      model: route.modelName === ANY_MODEL ? ANY_MODEL : request.model || route.modelName,
      cluster,
      priority: fields.priority,
      estimate: () => usageEstimate(route.model, promptBytes, request.maxTokens),
      ttftSloMs: Number(fields.ttftSloMs ?? policy.ttftSloMs),
    });
    call.account!.reserved(admitted.reservation);
    const blocks = this.#blocks(request, route, promptBytes, bytes);
    return { request, route, prompt, prepared, rest, tenant, admitted, blocks };
  }

  // Has the prompt tokenised, beside this thread, where engines may tell that they hold a part of it.
  #blocks(request: InferenceRequest, route: Route, promptBytes: number, body: Uint8Array): AwaitedBlocks | undefined {
    const { tokens, decisions, config: { kv_events: { least_prompt_bytes, wait_ms } } } = this.#parts;
    const { placement: { policy, cluster }, modelName, lora } = route;
    if (tokens === undefined || !tokens.knows(modelName) || promptBytes < least_prompt_bytes) return undefined;
    if (!policy.cacheAware || (request.kind !== "chat" && request.kind !== "completion")) return undefined;
    if (!decisions.tells(cluster)) return undefined;
    // Most of it is images, which have no tokens here.
    if (body.length > MOST_BYTES_A_BYTE * promptBytes + SMALL_BODY_BYTES) return undefined;
    const asked = tokens.ask({
      model: modelName,
      body,
      cluster,
      lora,
      salt: request.cacheSalt ?? "",
      waitMs: wait_ms,
      tools: !request.plainText && Array.isArray(request.body.tools) && request.body.tools.length > 0,
    });
    return asked && { asked, waitMs: wait_ms };
  }

  // The chunk that tells it is taken out again.
  #asksForUsage({ incoming: { carrier } }: Call): boolean {
    return this.#parts.config.usage_accounting && (carrier === undefined || carrier.rewrites);
  }

  readonly #textOf = (request: InferenceRequest): string => promptText(request, this.#prompts);

  #route({ context, incoming: { headers } }: Call, request: InferenceRequest): Route {
    try {
      return this.#parts.routes.resolve(request, headers);
    } catch (error) {
      // Engines may have got it in the meantime: the control plane asks them.
      if (error instanceof GatewayError && error.code === "model_not_found") {
        context.instruments.add(WORKER_CELLS.unknownModels);
      }
      throw error;
    }
  }

  /**
   * The part that waits: for an endpoint, and for its answer. Throws GatewayError.
   */
  async answer(call: Call, admitted: AdmittedRequest, watcher: AnswerWatcher): Promise<Answered> {
    const { request, route, prepared, rest, blocks } = admitted;
    const { config, deadlines, dispatcher, responses, engines, hedging, watch } = this.#parts;
    const seen = watch?.look(admitted);
    let waitsSince: number | undefined;
    try {
      // Decide: the endpoint that will answer first, with this request's load counted on it.
      using grant = await this.#decide(call, admitted, () => {
        waitsSince = deadlines.clock.now();
        watcher.queued();
      });
      waitsSince = undefined;
      if (seen) watch!.decided(seen, grant, call);
      call.promptBytes = grant.prompt.bytes;
      call.queuedMs = grant.queuedMs;
      call.context.instruments.granted(
        call.modelRow,
        grant.queuedMs / 1_000,
        (grant.lookUpMs + grant.decideMs) / 1_000,
      );
      if (call.context.accessLog) {
        const { lookUpMs, decideMs, loadName, prompt } = grant;
        call.decision = { lookUpMs, decideMs, loadName, cacheKnown: prompt.known };
      }

      // Dispatch: to that endpoint, or to another if it fails before anything of its answer went on.
      using presumption = request.stream
        ? undefined
        : presumeFirstToken(grant, deadlines, config.prediction.first_token_margin);
      const { kind, stream, choices } = request;
      const dispatch = (under: Grant, caller: Call) =>
        dispatcher.dispatch(under, {
          call: caller,
          prepared,
          rest,
          transport: route.transport,
          expected: {
            kind,
            tokens: stream,
            choices,
            opened: (head) => watcher.opened(head),
            heard: () => under.leg.heard(),
          },
          moved: () => presumption?.again(),
        });
      const { answer, grant: won } = hedging && stream && generates(kind) && call.incoming.carrier === undefined
        ? await hedge(hedging, call, grant, dispatch)
        : { answer: await dispatch(grant, call), grant };
      if (!stream && generates(kind) && answer.head.status === 200) call.answered();
      // An answer that stands because no peer knew better is not the last one's.
      call.matchedBytes = call.endpointRow === won.leg.endpoint.row
        ? Math.min(won.leg.matchedBytes, call.promptBytes)
        : 0;
      call.asked = blocks?.asked;
      if (won.leg.matchedExactly) call.knownTokens = knownTokens(won.prompt, call.matchedBytes);
      const { row, generation } = won.leg.endpoint;
      const tellsUsage = this.#asksForUsage(call) || engines[route.rule.backend].alwaysTellsUsage;
      return {
        answer,
        grant: won.keep(),
        hideUsage: request.stream && !asksForUsage(request) && tellsUsage,
        splitReasoning: kind === "chat" ? splitOf(route.rule.split_reasoning ?? config.split_reasoning) : undefined,
        stored: kind === "responses" ? (id) => responses.store(id, row, generation, admitted.tenant) : undefined,
      };
    } catch (error) {
      if (waitsSince !== undefined) call.queuedMs = deadlines.clock.now() - waitsSince;
      throw this.asGatewayError(error, call);
    }
  }

  #decide(call: Call, { request, route, prompt, tenant, admitted, blocks }: AdmittedRequest, waits: () => void) {
    const { scheduler, responses, queue } = this.#parts;
    const { fields } = call.incoming;
    const { placement, model } = route;
    const { policy } = placement;
    return scheduler.acquire({
      placement: generates(request.kind) ? placement : withoutCache(placement),
      prompt,
      blocks,
      model,
      flow: {
        band: admitted.band,
        tenant: tenant.row,
        deadlineMs: admitted.deadlineMs,
        concurrency: tenant.limits.concurrency,
        queued: tenant.limits.queued,
      },
      reserved: admitted.reservation.tokens,
      queue,
      objectives: {
        ttftMs: Number(fields.ttftSloMs ?? policy.ttftSloMs),
        tpotMs: Number(fields.tpotSloMs ?? policy.tpotSloMs),
      },
      preempt: call.cancellation.preempt,
      hidden: !request.stream,
      among: call.incoming.carrier?.among,
      onlyEndpoint: responses.endpointFor(request.previousResponse, tenant, placement, this.#tenantsApart),
    }, (waiting) => {
      call.waitsFor(waiting);
      waits();
    });
  }

  /** What a client is told of a failure; what nobody foresaw is logged. */
  asGatewayError(error: unknown, call: Call): GatewayError {
    if (error instanceof GatewayError) return error;
    if (error instanceof UpstreamError) return asGatewayError(error, call);
    if (call.cancellation.gone) return new GatewayError("client_closed", "The client left", null, error);
    this.#parts.log.error("a request failed inside the gateway", {
      request_id: call.requestId,
      error: error instanceof Error ? error.stack : String(error),
    });
    return new GatewayError("internal", "The gateway failed to handle this request", null, error);
  }
}
