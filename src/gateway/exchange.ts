// SPDX-License-Identifier: Apache-2.0
// The books of one request: when it came, where it went, how it ended. `end` is idempotent, whoever calls it first says
// the outcome; metrics, access log and trace are written there and nowhere else.

import type { Clock } from "../base/clock.ts";
import type { GatewayError } from "../base/errors.ts";
import { errorBody } from "../openai/errors.ts";
import type { InferenceRequest } from "../openai/request.ts";
import type { AccessLog } from "../telemetry/access_log.ts";
import type { Instruments } from "../telemetry/instruments.ts";
import { type Outcome } from "../telemetry/outcome.ts";
import type { RequestSpan, Tracing } from "../telemetry/tracing.ts";
import type { Connection } from "../upstream/connection.ts";
import { type IncomingFields, readIncoming } from "../upstream/request_head.ts";
import { UpstreamError } from "../upstream/errors.ts";
import type { Route } from "./routes.ts";

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
}

export class Exchange {
  readonly incoming: IncomingFields;
  readonly started: number;
  readonly signal: AbortSignal;
  #connection: Connection | undefined;
  #call: InferenceRequest | undefined;
  #route: Route | undefined;
  #firstTokenAt: number | undefined;
  #span: RequestSpan | undefined;
  #ended = false;
  /** HOST:PORT that answered. */
  endpoint = "";
  status = 0;
  promptBytes = 0;
  matchedChunks = 0;
  tries = 0;

  constructor(readonly context: ExchangeContext, request: Request) {
    context.active.add(this);
    this.started = context.clock.now();
    this.incoming = readIncoming(request.headers);
    this.signal = request.signal;
    this.signal.addEventListener("abort", this.#abort);
    this.#span = context.tracing?.start(request.headers);
  }

  get requestId(): string {
    return this.incoming.requestId;
  }

  readonly #abort = (): void => {
    if (this.#ended) return;
    this.#connection?.fail(new UpstreamError("aborted", "the client left"));
  };

  /** The gateway shuts down: the request ends with an error of its own. */
  cut(): void {
    this.#connection?.fail(new UpstreamError("draining", "the gateway shuts down"));
  }

  routed(call: InferenceRequest, route: Route): void {
    this.#call = call;
    this.#route = route;
  }

  /** The connection that carries the request now; it is cut when the client leaves. */
  hold(connection: Connection): void {
    this.#connection = connection;
    if (this.signal.aborted) this.#abort();
  }

  firstToken(): void {
    if (this.#firstTokenAt !== undefined) return;
    this.#firstTokenAt = this.context.clock.now();
    this.context.instruments.firstToken(this.#modelRow, (this.#firstTokenAt - this.started) / 1000);
  }

  get #modelRow(): number {
    return this.#route?.model ?? this.context.unknownModel;
  }

  end(outcome: Outcome): void {
    if (this.#ended) return;
    this.#ended = true;
    this.context.active.delete(this);
    this.#connection = undefined;
    const { clock, instruments, accessLog } = this.context;
    const elapsed = clock.now() - this.started;
    instruments.ended(this.#modelRow, outcome, elapsed / 1000);
    const ttft = this.#firstTokenAt === undefined ? null : this.#firstTokenAt - this.started;
    this.#span?.end({
      "gen_ai.request.model": this.#call?.model ?? "",
      "server.address": this.endpoint,
      "aigw.outcome": outcome,
      "aigw.cached_chunks": this.matchedChunks,
      "aigw.tries": this.tries,
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
      endpoint: this.endpoint,
      status: this.status,
      outcome,
      is_local_error: this.endpoint === "" && outcome !== "ok",
      prompt_bytes: this.promptBytes,
      use_cache: this.#route?.placement.policy.cacheAware ?? false,
      cached_chunks: this.matchedChunks,
      tries: this.tries,
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
    return response;
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
    if (error.status === 503) headers["retry-after"] = "1";
    return this.addHeaders(new Response(errorBody(error), { status: error.status, headers }));
  }
}
