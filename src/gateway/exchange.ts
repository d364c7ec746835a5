// SPDX-License-Identifier: Apache-2.0
// The books of one request: when it came, where it went, how it ended. `end` is idempotent, whoever calls it first says
// the outcome; metrics, access log and trace are written there and nowhere else.

import type { Limits } from "../admission/limits.ts";
import type { Tenant, Tenants } from "../admission/tenants.ts";
import type { Clock } from "../base/clock.ts";
import type { Deadline, Deadlines } from "../base/deadlines.ts";
import { GatewayError } from "../base/errors.ts";
import type { Kind } from "../openai/api.ts";
import { errorBody } from "../openai/errors.ts";
import type { InferenceRequest } from "../openai/request.ts";
import type { Usage } from "../openai/usage.ts";
import type { SampleWriter } from "../tables/sample_ring.ts";
import type { AccessLog } from "../telemetry/access_log.ts";
import type { Instruments } from "../telemetry/instruments.ts";
import { type Outcome } from "../telemetry/outcome.ts";
import type { RequestSpan, Tracing } from "../telemetry/tracing.ts";
import { type IncomingFields, type OwnFields, readIncoming } from "../upstream/request_head.ts";
import { UpstreamError } from "../upstream/errors.ts";
import type { Route } from "./routes.ts";
import { TenantBooks } from "./tenant_books.ts";

/** What the exchanges of a worker share. */
export interface ExchangeContext {
  readonly clock: Clock;
  readonly instruments: Instruments;
  readonly accessLog: AccessLog | undefined;
  readonly tracing: Tracing | undefined;
  /** Row of the metrics of requests without a known model. */
  readonly unknownModel: number;
  /** Requests under way. */
  readonly active: Set<Exchange>;
  /** Value of `x-aigw-via`. */
  readonly via: string;
  readonly exposeEndpoint: boolean;
  readonly deadlines: Deadlines;
  readonly samples: SampleWriter;
  /** Longest life of a request. */
  readonly requestMs: number;
  readonly tenants: Tenants;
  readonly limits: Limits;
  /** Header fields of the gateway's own. */
  readonly ownFields: OwnFields;
  /** Counts generated tokens of a tenant for its share; undefined where there is but one. */
  readonly serve: ((tenant: number, tokens: number) => void) | undefined;
  /** Origins that browsers may call from; undefined without CORS. */
  readonly origins: readonly string[] | undefined;
}

/** What a request waits for: a body, a connection, an engine's answer. */
export interface Waiting {
  fail(error: UpstreamError): void;
}

function checkMs(name: string, value: string | undefined): void {
  if (value === undefined || /^[1-9]\d{0,8}$/.test(value)) return;
  throw new GatewayError("invalid_request", `The header ${name} is to be a number of milliseconds, 1 or more`);
}

export class Exchange implements Deadline {
  deadline: number;
  place = -1;
  readonly incoming: IncomingFields;
  readonly started: number;
  readonly #signal: AbortSignal;
  #waiting: Waiting | undefined;
  #late: ((error: GatewayError | undefined) => void) | undefined;
  /** Why nothing more may be begun for it. */
  #gone: UpstreamError | undefined;
  #call: InferenceRequest | undefined;
  #route: Route | undefined;
  #firstTokenAt: number | undefined;
  #span: RequestSpan | undefined;
  #ended = false;
  /** Whose it is, and what it takes of that tenant; undefined until that is known. */
  books: TenantBooks | undefined;
  /** HOST:PORT that answered. */
  endpoint = "";
  status = 0;
  promptBytes = 0;
  matchedBytes = 0;
  tries = 0;
  /** When it was last sent to an endpoint. */
  sentAt = 0;
  /** Row of that endpoint, what was predicted for its first token, and the requests on it then. */
  endpointRow = 0;
  predictedMs = NaN;
  batch = NaN;
  /** Ms that its prefill took, once its first token was seen. */
  prefillMs = NaN;
  /** Ms that it waited for an endpoint. */
  queuedMs = 0;
  usage: Usage | undefined;

  constructor(readonly context: ExchangeContext, request: Request, readonly kind?: Kind) {
    context.active.add(this);
    this.started = context.clock.now();
    this.incoming = readIncoming(request.headers, context.ownFields);
    this.deadline = this.started + this.#lifeMs();
    context.deadlines.watch(this);
    // At once: a signal that is first asked for after the client has left does not tell.
    this.#signal = request.signal;
    this.#signal.addEventListener("abort", this.#abort);
    this.#span = context.tracing?.start(request.headers);
  }

  get requestId(): string {
    return this.incoming.requestId;
  }

  /** Gives the step under way a time of its own, up to `unlimit`; `late` is told what is over, the step's or the request's. */
  limit(ms: number, late: (error: GatewayError | undefined) => void): void {
    this.#late = late;
    this.deadline = Math.min(this.deadline, this.context.clock.now() + ms);
  }

  unlimit(): void {
    this.#late = undefined;
    this.deadline = this.started + this.#lifeMs();
  }

  /** The time of a step, or of the request, is up. */
  expire(): void {
    const lifeMs = this.#lifeMs();
    const over = this.deadline >= this.started + lifeMs;
    const message = `The request was not answered within its ${lifeMs} ms`;
    if (this.#late) this.#late(over ? new GatewayError("deadline_exceeded", message) : undefined);
    else this.#give(new UpstreamError("deadline", message));
  }

  #lifeMs(): number {
    const { requestMs } = this.context;
    const asked = this.incoming.timeoutMs;
    return asked === undefined ? requestMs : Math.min(requestMs, Number(asked) || requestMs);
  }

  /** Throws GatewayError (invalid_request) when the client's own limit or objectives are none. */
  checkTimes(): void {
    const { timeoutMs, ttftSloMs, tpotSloMs } = this.incoming;
    checkMs("x-aigw-timeout-ms", timeoutMs);
    checkMs("x-aigw-ttft-slo-ms", ttftSloMs);
    checkMs("x-aigw-tpot-slo-ms", tpotSloMs);
  }

  /** Finds out who it is from. Throws GatewayError (unauthorized). */
  authenticate(): Tenant {
    const { tenants, serve } = this.context;
    const tenant = tenants.identify(this.incoming);
    this.books = new TenantBooks(tenant, serve);
    return tenant;
  }

  /** It is to make room for a request of higher priority, unless its answer has begun. */
  readonly preempt = (): void => {
    if (this.#firstTokenAt === undefined) this.#give(new UpstreamError("preempted", "a request of higher priority"));
  };

  readonly #abort = (): void => this.#give(new UpstreamError("aborted", "the client left"));

  /** The client left, as its answer's stream tells. */
  leave(): void {
    this.#abort();
  }

  /** The gateway shuts down: the request ends with an error of its own. */
  cut(): void {
    this.#give(new UpstreamError("draining", "the gateway shuts down"));
  }

  #give(error: UpstreamError): void {
    if (this.#ended) return;
    this.#gone ??= error;
    this.#waiting?.fail(error);
  }

  /** Whether the client left, its time is up, or the gateway shuts down. */
  get gone(): boolean {
    return this.#gone !== undefined;
  }

  routed(call: InferenceRequest, route: Route): void {
    this.#call = call;
    this.#route = route;
  }

  /** What the request waits for now; it fails when the client leaves. */
  readonly hold = (waiting: Waiting): void => {
    this.#waiting = waiting;
    if (this.#gone) waiting.fail(this.#gone);
  };

  firstToken(): void {
    if (this.#firstTokenAt !== undefined) return;
    this.#firstTokenAt = this.context.clock.now();
    this.context.instruments.firstToken(this.#modelRow, (this.#firstTokenAt - this.started) / 1000);
  }

  // What was seen teaches the latency models, unless the request was moved on the way.
  #observe({ promptTokens, cachedTokens = 0, completionTokens = 0 }: Usage): void {
    if (promptTokens === undefined || this.tries !== 1 || !this.#route) return;
    const firstAt = this.#firstTokenAt;
    const { endpointRow, promptBytes, prefillMs, batch } = this;
    this.context.samples.write({
      model: this.#route.model,
      endpoint: endpointRow,
      promptBytes,
      promptTokens,
      cachedTokens: Math.min(cachedTokens, promptTokens),
      prefillMs: firstAt === undefined ? NaN : prefillMs,
      tpotMs: firstAt === undefined || completionTokens < 2
        ? NaN
        : (this.context.clock.now() - firstAt) / (completionTokens - 1),
      batch,
      predicted: firstAt === undefined ? NaN : this.predictedMs / Math.max(0.1, firstAt - this.sentAt),
    });
  }

  get #modelRow(): number {
    return this.#route?.model ?? this.context.unknownModel;
  }

  end(outcome: Outcome): void {
    if (this.#ended) return;
    this.#ended = true;
    this.context.active.delete(this);
    this.#waiting = undefined;
    const { clock, instruments, accessLog, deadlines } = this.context;
    deadlines.unwatch(this);
    const elapsed = clock.now() - this.started;
    instruments.ended(this.#modelRow, outcome, elapsed / 1000);
    if (this.books) {
      const sent = this.endpoint !== "";
      instruments.tenantEnded(this.books.tenant.row, sent, this.usage);
      this.books.settle(outcome, this.usage, sent);
    }
    if (this.usage) {
      instruments.usage(this.#modelRow, this.usage);
      this.#observe(this.usage);
    }
    const ttft = this.#firstTokenAt === undefined ? null : this.#firstTokenAt - this.started;
    this.#span?.end({
      "gen_ai.request.model": this.#call?.model ?? "",
      "server.address": this.endpoint,
      "aigw.outcome": outcome,
      "aigw.cached_bytes": this.matchedBytes,
      "aigw.tries": this.tries,
      ...(this.usage?.promptTokens === undefined ? {} : { "gen_ai.usage.input_tokens": this.usage.promptTokens }),
      ...(this.usage?.completionTokens === undefined
        ? {}
        : { "gen_ai.usage.output_tokens": this.usage.completionTokens }),
      ...(ttft === null ? {} : { "aigw.ttft_ms": ttft }),
    }, this.status);
    accessLog?.write({
      time: new Date(clock.wall()).toISOString(),
      trace_id: this.requestId,
      route_name: this.#route?.rule.route_name ?? "",
      ai_model_name: this.#call?.model ?? "",
      target_model_name: this.#route?.targetModel || (this.#call?.model ?? ""),
      ai_backend_protocol: this.#route?.rule.backend ?? "",
      ai_stream_request: this.#call?.stream ?? false,
      lora_id: this.#route?.targetModel ?? "",
      tenant: this.books?.tenant.name ?? "",
      endpoint: this.endpoint,
      status: this.status,
      outcome,
      is_local_error: this.endpoint === "" && outcome !== "ok",
      prompt_bytes: this.promptBytes,
      use_cache: this.#route?.placement.policy.cacheAware ?? false,
      cached_bytes: this.matchedBytes,
      tries: this.tries,
      queued_ms: this.queuedMs,
      predicted_ttft: Number.isNaN(this.predictedMs) ? null : this.predictedMs,
      prompt_tokens: this.usage?.promptTokens ?? null,
      completion_tokens: this.usage?.completionTokens ?? null,
      cached_tokens: this.usage?.cachedTokens ?? null,
      ttft,
      first_rt: ttft,
      last_rt: elapsed,
    });
  }

  /** Adds the headers that every answer carries. Appending costs less than half of handing a list to Response. */
  addHeaders(response: Response): Response {
    const { headers } = response;
    headers.append("x-request-id", this.requestId);
    headers.append("x-aigw-via", this.context.via);
    if (this.context.exposeEndpoint && this.endpoint !== "") headers.append("x-aigw-endpoint", this.endpoint);
    if (this.context.origins !== undefined) this.#addOrigin(headers);
    if (this.books) this.context.limits.addHeaders(this.books.tenant, headers);
    return response;
  }

  // Lets a browser's page from an allowed origin read the answer (Fetch standard, CORS protocol).
  #addOrigin(headers: Headers): void {
    const { origin } = this.incoming;
    const origins = this.context.origins!;
    if (origin === undefined) return;
    const any = origins.includes("*");
    if (!any && !origins.includes(origin)) return;
    headers.append("access-control-allow-origin", any ? "*" : origin);
    headers.append("access-control-expose-headers", "*");
    if (!any) headers.append("vary", "origin");
  }

  /** Ends it with an error of the gateway's own. */
  refuse(error: GatewayError, more: Record<string, string> = {}): Response {
    this.status = error.status;
    this.end(error.code);
    const headers: Record<string, string> = {
      "content-type": "application/json",
      "x-aigw-reason": error.code,
      ...more,
    };
    if (error.status === 503 || error.status === 429) {
      headers["retry-after"] = String(Math.max(1, Math.ceil((error.retryAfterMs ?? 1_000) / 1_000)));
    }
    return this.addHeaders(new Response(errorBody(error, this.kind), { status: error.status, headers }));
  }
}
