// SPDX-License-Identifier: Apache-2.0
// The end of a request, written once: metrics, the tenant's account, what the latency models learn from, trace, access log.
// Whoever calls `end` first says the outcome.

import type { Kind } from "../openai/api.ts";
import { hasMedia } from "../openai/request.ts";
import type { Usage } from "../openai/usage.ts";
import { duration, timeOfDay } from "../telemetry/access_log.ts";
import type { RequestTexts } from "../telemetry/llm_log.ts";
import { type Outcome, outcomeIsError } from "../telemetry/outcome.ts";
import type { RequestSpan } from "../telemetry/tracing.ts";
import type { Call } from "./call.ts";

/** Bytes of a prompt that a hash is of: what the log has always counted cached prefixes in. */
const CHUNK_BYTES = 512;

/** Ends a request, unless it has ended already. */
export function end(call: Call, outcome: Outcome): void {
  if (!call.close()) return;
  try {
    write(call, outcome);
  } finally {
    // Last: once the last request under a snapshot has left, the rows that it names may become another's.
    call.leave();
  }
}

function write(call: Call, outcome: Outcome): void {
  const { context: { clock, instruments }, modelRow, started } = call;
  const told = call.usage !== undefined && outcome === "ok";
  const usage = call.usage = usageOf(call, outcome);
  const elapsed = clock.now() - started;
  instruments.ended({
    model: modelRow,
    tenant: call.account?.tenant.row ?? 0,
    path: call.incoming.path,
    outcome,
    seconds: elapsed / 1_000,
  });
  if (call.tries > 0) served(call, outcome, usage);
  if (call.account) {
    const sent = call.endpoint !== "";
    instruments.tenantEnded(call.account.tenant.row, sent, usage);
    call.account.settle(outcome, usage, sent);
  }
  if (usage) {
    instruments.usage(modelRow, usage, told);
    observe(call, usage);
  }
  if (call.span) trace(call, outcome, elapsed, call.span);
  if (call.context.accessLog?.takes(outcome) && !isCheck(call, outcome)) log(call, outcome, elapsed);
  if (call.texts) logTexts(call, outcome, call.texts);
}

// Load balancers ask for the health every second.
function isCheck({ incoming: { path } }: Call, outcome: Outcome): boolean {
  return path === "/health" && outcome === "ok";
}

// Of what an endpoint was asked to do; a client that left, or was wrong, says nothing of it.
function served(call: Call, outcome: Outcome, usage: Usage | undefined): void {
  const { context: { clock, instruments }, modelRow, firstTokenAt, sentAt, tokens } = call;
  const failed = ENDPOINT_FAILED.has(outcome);
  if (!failed && outcome !== "ok" && outcome !== "engine_rejected") return;
  instruments.served(modelRow, call.endpointRow, {
    failed,
    promptBytes: call.promptBytes,
    presumedBytes: call.matchedBytes,
    ttftSeconds: firstTokenAt === undefined ? undefined : (firstTokenAt - sentAt) / 1_000,
    usage,
  });
  const generated = usage?.completionTokens ?? tokens;
  if (firstTokenAt === undefined || generated < 2) return;
  instruments.tokenTime(modelRow, (clock.now() - firstTokenAt) / 1_000 / (generated - 1));
}

/** Outcomes that are the doing of the endpoint. */
const ENDPOINT_FAILED: ReadonlySet<Outcome> = new Set<Outcome>([
  "engine_failed",
  "stream_broken",
  "stream_failed",
  "upstream_failed",
  "upstream_timeout",
]);

// What an engine said it used counts; of an answer that was cut, at least the tokens that came.
function usageOf({ usage, tokens }: Call, outcome: Outcome): Usage | undefined {
  if (outcome === "ok" || tokens === 0) return usage;
  return { ...usage, completionTokens: Math.max(usage?.completionTokens ?? 0, tokens) };
}

// What was seen teaches the latency models, unless the request was moved on the way.
function observe(call: Call, { promptTokens, cachedTokens = 0, completionTokens = 0 }: Usage): void {
  const { context, route, tries, firstTokenAt, endpointRow, promptBytes, prefillMs, batch } = call;
  if (promptTokens !== undefined) call.asked?.counted?.(promptTokens);
  if (promptTokens === undefined || tries !== 1 || !route) return;
  context.samples.write({
    model: route.model,
    endpoint: endpointRow,
    promptBytes,
    promptTokens,
    cachedTokens: Math.min(cachedTokens, promptTokens),
    prefillMs: firstTokenAt === undefined ? NaN : prefillMs,
    tpotMs: firstTokenAt === undefined || completionTokens < 2
      ? NaN
      : (context.clock.now() - firstTokenAt) / (completionTokens - 1),
    batch,
    predicted: firstTokenAt === undefined ? NaN : call.predictedMs / Math.max(0.1, firstTokenAt - call.sentAt),
  });
}

// As the client names it; of a request that names none, the model that it is for.
function modelOf({ request, route }: Call): string {
  return request?.model || (route?.modelName ?? "");
}

function ttftMs({ firstTokenAt, started }: Call): number | null {
  return firstTokenAt === undefined ? null : firstTokenAt - started;
}

/** What a request does, as the conventions for generative AI call it. */
const OPERATIONS: Readonly<Partial<Record<Kind, string>>> = {
  chat: "chat",
  responses: "chat",
  messages: "chat",
  completion: "text_completion",
  embeddings: "embeddings",
};

function trace(call: Call, outcome: Outcome, elapsed: number, span: RequestSpan): void {
  const { context: { clock }, usage, request, route, kind, firstTokenAt, sentAt, tries, tokens } = call;
  const operation = OPERATIONS[kind!] ?? kind!;
  const model = modelOf(call);
  const provider = route?.rule.backend;
  const error = outcomeIsError(outcome) ? outcome : undefined;
  const at = call.endpoint.lastIndexOf(":");
  const wallOf = (time: number) => clock.wall() - (clock.now() - time);
  const generated = usage?.completionTokens ?? tokens;
  span.end({
    name: `${operation} ${model}`.trim(),
    attributes: {
      "gen_ai.operation.name": operation,
      "gen_ai.provider.name": provider,
      "gen_ai.request.model": model,
      "gen_ai.request.max_tokens": request?.maxTokens,
      "gen_ai.request.choice.count": request !== undefined && request.choices > 1 ? request.choices : undefined,
      "gen_ai.response.model": call.status === 200 ? route?.targetModel || model : undefined,
      "gen_ai.response.finish_reasons": call.finishReasons.length > 0 ? call.finishReasons : undefined,
      "gen_ai.usage.input_tokens": usage?.promptTokens,
      "gen_ai.usage.cache_read.input_tokens": usage?.cachedTokens,
      "gen_ai.usage.output_tokens": usage?.completionTokens,
      "server.address": at < 0 ? undefined : call.endpoint.slice(0, at),
      "server.port": at < 0 ? undefined : parseInt(call.endpoint.slice(at + 1)),
      "http.response.status_code": call.status,
      "error.type": error,
      "aigw.request.id": call.requestId,
      "aigw.outcome": outcome,
      "aigw.tenant": call.account?.tenant.name,
      "aigw.cluster": route?.rule.cluster,
      "aigw.tries": tries,
      "aigw.prompt.bytes": call.promptBytes,
      "aigw.presumed_cached.bytes": call.matchedBytes,
      "aigw.queue.duration_ms": Math.round(call.queuedMs),
    },
    events: [
      ...(tries > 0 ? [{ name: "aigw.sent", time: wallOf(sentAt) }] : []),
      ...(firstTokenAt === undefined ? [] : [{ name: "aigw.first_token", time: wallOf(firstTokenAt) }]),
    ],
    error,
    // A model that no rule names is a stranger's word: it would make series without end.
    labels: {
      "gen_ai.operation.name": operation,
      "gen_ai.provider.name": provider,
      "gen_ai.request.model": route?.modelName ?? "_OTHER",
      "error.type": error,
    },
    seconds: elapsed / 1_000,
    ttftSeconds: firstTokenAt === undefined ? undefined : (firstTokenAt - call.started) / 1_000,
    tokenSeconds: firstTokenAt === undefined || generated < 2
      ? undefined
      : (clock.now() - firstTokenAt) / 1_000 / (generated - 1),
  });
}

function log(call: Call, outcome: Outcome, elapsed: number): void {
  const { context: { clock, accessLog, gateway }, request, route, usage, decision, firstTokenAt } = call;
  const model = modelOf(call);
  const wall = clock.wall();
  const ttft = ttftMs(call);
  accessLog!.write({
    time: new Date(wall).toISOString(),
    trace_id: call.requestId,
    path: call.incoming.path,
    route_name: route?.rule.route_name ?? "",
    header_num: route?.rule.headers.length ?? 0,
    ai_model_name: model,
    target_model_name: route?.rule.scene_name || route?.targetModel || model,
    ai_backend_protocol: route?.rule.backend ?? "",
    ai_stream_request: request?.stream ?? false,
    lora_id: route?.targetModel ?? "",
    is_vl: request !== undefined && hasMedia(request),
    tenant: call.account?.tenant.name ?? "",
    endpoint: call.endpoint,
    metacenter_reqid: decision ? `${gateway}-${decision.loadName}` : "",
    status: call.status,
    outcome,
    is_local_error: call.endpoint === "" && outcome !== "ok",
    prompt_bytes: call.promptBytes,
    use_load: decision && route?.placement.policy.loadAware ? 1 : 0,
    use_cache: decision?.cacheKnown ? 1 : 0,
    load_duration: decision ? duration(decision.decideMs) : "",
    cache_duration: decision ? duration(decision.lookUpMs) : "",
    cached_bytes: call.matchedBytes,
    known_cached_tokens: call.knownTokens ?? null,
    cached_chunks: Math.floor(call.matchedBytes / CHUNK_BYTES),
    tries: call.tries,
    queued_ms: call.queuedMs,
    predicted_ttft: Number.isNaN(call.predictedMs) ? null : call.predictedMs,
    prompt_tokens: usage?.promptTokens ?? null,
    completion_tokens: usage?.completionTokens ?? null,
    cached_tokens: usage?.cachedTokens ?? null,
    ttft: firstTokenAt === undefined ? 0 : Math.round(firstTokenAt - call.sentAt),
    first_rt: firstTokenAt === undefined ? null : timeOfDay(wall - (clock.now() - firstTokenAt)),
    last_rt: call.endpoint === "" ? null : timeOfDay(wall),
    ttft_ms: ttft,
    duration_ms: elapsed,
  });
}

function logTexts(call: Call, outcome: Outcome, texts: RequestTexts): void {
  const { context: { clock, llmLog }, usage } = call;
  llmLog!.write(texts, {
    time: new Date(clock.wall()).toISOString(),
    trace_id: call.requestId,
    ai_model_name: modelOf(call),
    tenant: call.account?.tenant.name ?? "",
    endpoint: call.endpoint,
    status: call.status,
    outcome,
    prompt_tokens: usage?.promptTokens ?? null,
    completion_tokens: usage?.completionTokens ?? null,
    cached_tokens: usage?.cachedTokens ?? null,
  });
}
