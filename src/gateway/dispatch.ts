// SPDX-License-Identifier: Apache-2.0
// Sends a request to the endpoint of its grant, and to another one when that failed before a token of its answer went on to
// the client, said that it is busy, or rejected what a peer may answer: as long as there are tries, a retry budget and time.
// What an endpoint does is noted on its row: failures in a row, successes, and how long it is left alone. A refused
// connection costs neither a try nor the budget: nothing has been executed.

import { concat } from "../base/bytes.ts";
import { GatewayError } from "../base/errors.ts";
import type { Opened, OutgoingRequest, PreparedRequest } from "../engines/engine.ts";
import type { Grant } from "../scheduler/scheduler.ts";
import type { EndpointTable } from "../tables/endpoint_table.ts";
import { type RetryReason, WORKER_CELLS } from "../telemetry/cells.ts";
import type { BodyRest } from "../upstream/body_rest.ts";
import type { EndpointPools } from "../upstream/endpoint_pools.ts";
import { generates } from "../openai/api.ts";
import { UpstreamError, type UpstreamFailure } from "../upstream/errors.ts";
import { requestHead } from "../upstream/request_head.ts";
import type { ResponseHead } from "../upstream/response_head.ts";
import type { RetryBudget } from "../upstream/retry_budget.ts";
import type { EndpointRef } from "../tables/endpoint_directory.ts";
import type { EndpointPulse } from "../tables/endpoint_pulse.ts";
import type { Transport } from "../upstream/transport.ts";
import { aborted, type Answer, type AnswerLimits, type Expected, openAnswer, saysAborted } from "./answer.ts";
import type { Call } from "./call.ts";
import { FailureJudge, saysDead } from "./failure_judge.ts";
import { ReplicaJudge } from "./replica_judge.ts";
import { Silence, type SilenceParts } from "./silence.ts";

export interface DispatchOptions {
  /** What is done about engines that say nothing. */
  readonly silence: SilenceParts;
  /** Further endpoints tried. */
  readonly retries: number;
  readonly budget: RetryBudget;
  readonly answers: AnswerLimits;
  /** How long a busy endpoint is left alone when it does not say, and at most; 0 for not at all. */
  readonly backpressureMs: number;
  readonly maxBackpressureMs: number;
  /** Is told an endpoint that answered 404: it may have other models than before. */
  missing(endpoint: number): void;
  /** Is told the first endpoint that wants credentials where the client's are not handed on. */
  withheld(endpoint: string): void;
  /** Is told an endpoint that rejects what a peer answers, once until it answers again. */
  atFault(endpoint: string, statuses: { readonly rejected: number; readonly peer: number }): void;
}

/** An answer by which an endpoint rejected a request that a peer may answer. */
interface Rejection {
  readonly endpoint: EndpointRef;
  readonly answer: Answer;
}

/** A request that is to be sent, wherever its grant says. */
export interface Dispatched {
  readonly call: Call;
  readonly prepared: PreparedRequest;
  /** What of its body is still to come. */
  readonly rest?: BodyRest;
  readonly transport: Transport;
  readonly expected: Expected;
  /** Another endpoint is tried. */
  moved(): void;
}

/** What goes to an endpoint, and how. */
interface Sent {
  readonly outgoing: OutgoingRequest;
  readonly transport: Transport;
  readonly rest?: BodyRest;
  /** On a new connection. */
  readonly fresh: boolean;
  /** Where it may go instead. */
  readonly others?: readonly EndpointRef[];
}

/** The client has waited for long enough. */
const LEFT: ReadonlySet<UpstreamFailure> = new Set<UpstreamFailure>(["aborted", "deadline"]);
const BUSY = new Set([429, 503]);
const RETRIED = new Set([429, 500, 502, 503, 504]);
/** A request by which so many engines died is not tried on a further one. */
const MAX_DEATHS = 2;
/** Why a failure moves a request, as metrics have it; "lost" for the others. */
const REASONS: Readonly<Partial<Record<UpstreamFailure, RetryReason>>> = {
  connect_failed: "refused",
  connect_timeout: "timeout",
  header_timeout: "timeout",
  first_byte_timeout: "timeout",
  idle_timeout: "timeout",
  silent: "silent",
};
/** The connection was lost while the engine had the request. */
const LOST: ReadonlySet<UpstreamFailure> = new Set<UpstreamFailure>(["lost_before_answer", "lost_in_answer"]);

export class Dispatcher {
  readonly #judge = new ReplicaJudge();
  readonly #failures = new FailureJudge();
  readonly #pulse: EndpointPulse;
  #toldOfCredentials = false;

  constructor(readonly pools: EndpointPools, readonly endpoints: EndpointTable, readonly options: DispatchOptions) {
    this.#pulse = options.silence.pulse;
  }

  /** Throws GatewayError: upstream_failed, upstream_timeout, deadline_exceeded, client_closed, draining. */
  async dispatch(grant: Grant, request: Dispatched): Promise<Answer> {
    const { call, prepared, rest, transport, expected } = request;
    const { context, incoming: { carrier } } = call;
    this.options.budget.deposit();
    const { leg } = grant;
    /** Who rejected it and how, until a peer tells who was right. */
    let rejection: Rejection | undefined;
    /** Where a reused connection was lost and there is no other endpoint: the next one is to be a new one. */
    let fresh = false;
    /** Engines that may have died of it, and those that answered 500 until a peer tells whose doing it was. */
    let deaths = 0;
    const blamed: number[] = [];
    for (;;) {
      let { endpoint } = leg;
      call.sending(leg);
      call.predictedMs = grant.predictedMs;
      leg.sent();
      const silence = new Silence(this.options.silence, call, endpoint, () => this.#another(grant, request, "silent"));
      try {
        const outgoing = prepared.encode(leg, call.fields);
        const others = carrier && grant.others(carrier.fallbacks);
        const sent = await this.#send(endpoint, call, { outgoing, rest, transport, fresh, others });
        const { head, body } = sent;
        if (sent.servedBy !== undefined && grant.servedBy(sent.servedBy)) {
          this.endpoints.countFailure(endpoint.row); // whoever carries it could not bring it there
          endpoint = leg.endpoint;
          call.sending(leg);
        }
        const opened = openAnswer(head, body, expected, this.options.answers);
        const answer = opened instanceof Promise ? await opened : opened;
        silence.end();
        if (answer.whole && answer.head.status === 200 && generates(expected.kind) && saysAborted(answer.whole)) {
          body.finish();
          throw aborted();
        }
        this.#pulse.hear(endpoint.row, context.clock.shared());
        if (silence.moved) { // the answer came in the very moment
          body.close();
          continue;
        }
        this.#note(endpoint.row, answer);
        if (answer.head.status === 401) this.#missCredentials(endpoint, call, transport);
        const { status } = answer.head;
        const died = saysDead(status, answer.whole);
        // One that was alone there may be what it died of.
        if (died) deaths += this.#failures.died(endpoint.row, leg.batch, context.clock.now()) ? MAX_DEATHS : 1;
        if (died) this.endpoints.countFailure(endpoint.row);
        else if (status === 500) blamed.push(endpoint.row);
        else if (status < 500) this.#acquit(endpoint.row, blamed);
        if (rejection !== undefined && !RETRIED.has(status)) this.#confront(rejection, status, call);
        const asksPeer = this.#judge.suspects(endpoint, status) && rejection === undefined;
        const again = asksPeer || (RETRIED.has(status) && deaths < MAX_DEATHS);
        if (!again || !this.#another(grant, request, asksPeer ? "rejected" : BUSY.has(status) ? "busy" : "failed")) {
          if (status === 500) this.#blame(blamed, call);
          // A peer that failed tells nothing: the rejection stands.
          if (rejection === undefined || !RETRIED.has(status)) return answer;
          if (answer.whole === undefined) body.close();
          else body.finish();
          return standing(rejection, call);
        }
        if (asksPeer) rejection = { endpoint, answer };
        if (answer.whole === undefined) body.close();
        else body.finish();
      } catch (error) {
        silence.end();
        if (silence.moved && !call.cancellation.gone) continue;
        if (!(error instanceof UpstreamError)) throw error;
        if (LEFT.has(error.failure)) silence.left();
        if (rest?.failure) throw rest.failure;
        this.#failed(error, endpoint.row, call);
        fresh = error.reused;
        if (LOST.has(error.failure) && !error.reused && !error.unsent) deaths++;
        const again = error.endpointFailed && !call.cancellation.gone && deaths < MAX_DEATHS;
        if (!again || !this.#another(grant, request, REASONS[error.failure] ?? "lost", error)) {
          this.#blame(blamed, call);
          if (rejection !== undefined && error.endpointFailed && !call.cancellation.gone) {
            return standing(rejection, call);
          }
          throw asGatewayError(error, call);
        }
      }
    }
  }

  // A peer answers what they failed at: it was their doing.
  #acquit(answered: number, blamed: number[]): void {
    this.#failures.answered(answered);
    for (const row of blamed.splice(0)) this.endpoints.countFailure(row);
  }

  // Nobody answered it: it may be the request's doing.
  #blame(blamed: number[], call: Call): void {
    for (const row of blamed) if (this.#failures.isNews(row, call)) this.endpoints.countFailure(row);
  }

  #failed(error: UpstreamError, endpoint: number, { context }: Call): void {
    if (!error.endpointFailed || error.reused) return;
    this.endpoints.countFailure(endpoint);
    if (error.failure === "connect_failed" || error.failure === "connect_timeout") {
      context.instruments.add(WORKER_CELLS.connectFailures);
    }
  }

  #confront({ endpoint, answer }: Rejection, peer: number, { context }: Call): void {
    if (peer >= 400) return this.#judge.acquitted(endpoint);
    this.endpoints.countFailure(endpoint.row);
    context.instruments.add(WORKER_CELLS.replicaFaults);
    if (this.#judge.guilty(endpoint)) this.options.atFault(endpoint.name, { rejected: answer.head.status, peer });
  }

  /** Sends a request to one endpoint without a grant: a look at what it holds. Throws as `dispatch` does. */
  async direct(endpoint: EndpointRef, call: Call, outgoing: OutgoingRequest, transport: Transport): Promise<Answer> {
    try {
      call.endpoint = endpoint.name;
      const { head, body } = await this.#send(endpoint, call, { outgoing, transport, fresh: false });
      return await openAnswer(head, body, NO_TOKENS, this.options.answers);
    } catch (error) {
      throw error instanceof UpstreamError ? asGatewayError(error, call) : error;
    }
  }

  async #send(endpoint: EndpointRef, call: Call, sent: Sent): Promise<Opened> {
    const { outgoing, rest, transport, fresh, others = [] } = sent;
    const { transcoder, method, target, opening = "", body } = outgoing;
    const path = transport.basePath + target;
    const fields = rankedFields(outgoing.fields, endpoint, transport) + credentialsOf(call, transport);
    const { carrier } = call.incoming;
    if (carrier !== undefined) {
      if (transcoder?.send || (transcoder?.wrap && !carrier.rewrites)) {
        throw new GatewayError(
          "not_supported",
          "This model's engines are spoken to in a protocol that cannot be carried",
        );
      }
      const whole = opening === "" ? body : concat([new TextEncoder().encode(opening), body]);
      const opened = await carrier.send({ endpoint, others, path, fields, body: whole, rest }, call.waitsFor);
      return transcoder?.wrap ? { ...opened, ...transcoder.wrap(opened) } : opened;
    }
    if (transcoder?.send) return await transcoder.send(endpoint.host, call);
    const bytes = opening.length + body.length;
    const head = requestHead({
      method,
      path,
      host: hostOf(endpoint, transport),
      fields,
      bodyBytes: rest === undefined ? bytes : rest.length === undefined ? undefined : bytes + rest.length,
    });
    const { head: answered, connection } = await this.pools.of(endpoint, transport).send(
      { head: head + opening, body, rest },
      call.waitsFor,
      fresh,
    );
    const opened = { head: answered, body: connection };
    return transcoder?.wrap ? transcoder.wrap(opened) : opened;
  }

  #missCredentials({ name }: EndpointRef, call: Call, transport: Transport): void {
    if (this.#toldOfCredentials || call.incoming.fields.credentials === "" || credentialsOf(call, transport) !== "") {
      return;
    }
    this.#toldOfCredentials = true;
    this.options.withheld(name);
  }

  #note(endpoint: number, { head: { status, headers }, whole }: Answer): void {
    if (status === 404) this.options.missing(endpoint);
    if (BUSY.has(status)) {
      const { backpressureMs, maxBackpressureMs } = this.options;
      const ms = Math.min(maxBackpressureMs, retryAfterMs(headers) ?? backpressureMs);
      if (ms > 0) this.endpoints.backOff(endpoint, ms);
    } else if (status > 500) this.endpoints.countFailure(endpoint);
    else if (status < 500) {
      this.endpoints.countSuccess(endpoint);
      if (whole !== undefined) this.endpoints.clearFailures(endpoint);
    }
  }

  // Moves the load on, when there are tries left, a budget for them, and an endpoint that was not tried.
  #another(
    grant: Grant,
    { call, rest, moved }: Dispatched,
    reason: RetryReason,
    error?: UpstreamError,
  ): boolean {
    const { cancellation, context } = call;
    if (call.incoming.carrier) return false; // whoever carries it tries others by itself
    if (rest?.begun) return false; // what has gone on of its body is not here any more
    const free = error?.failure === "connect_failed";
    if (free) call.refusals++;
    if (cancellation.gone || call.tries - call.refusals > this.options.retries) return false;
    const { budget } = this.options;
    if (!free && !budget.available) {
      context.instruments.add(WORKER_CELLS.retriesRefused);
      return false;
    }
    const moves = grant.tryAnother();
    // Nobody else: once more where the engine had closed an idle connection, which says nothing about it.
    if (!moves && !error?.reused) return false;
    if (!free) budget.tryWithdraw();
    context.instruments.retried(reason);
    if (moves) moved();
    return true;
  }
}

// The answer of who rejected the request, when no peer could tell.
function standing({ endpoint, answer }: Rejection, call: Call): Answer {
  call.endpoint = endpoint.name;
  call.endpointRow = endpoint.row;
  return answer;
}

/** By which vLLM and SGLang are told. */
const RANK_FIELD = "x-data-parallel-rank";

/** An answer of which nothing is known before. */
const NO_TOKENS: Expected = { kind: "chat", tokens: false, choices: 1, opened() {}, heard() {} };

function credentialsOf({ incoming: { fields } }: Call, { authorization, forwardCredentials }: Transport): string {
  if (authorization !== undefined) return `authorization: ${authorization}\r\n`;
  return forwardCredentials ? fields.credentials : "";
}

// The endpoint's rank is the gateway's to say, where there are several.
function rankedFields(fields: string, { rank }: EndpointRef, { ranks }: Transport): string {
  if (ranks === 1) return fields;
  const others = fields.includes(RANK_FIELD) ? fields.replaceAll(/^x-data-parallel-rank:.*\r\n/gim, "") : fields;
  return `${others}${RANK_FIELD}: ${rank}\r\n`;
}

function hostOf({ host }: EndpointRef, { tls }: Transport): string {
  return tls?.serverName ?? host;
}

/** Milliseconds of a Retry-After field: seconds, or a date (RFC 9110, section 10.2.3); undefined without one. */
function retryAfterMs(headers: ResponseHead["headers"]): number | undefined {
  const value = headers.find(([name]) => name === "retry-after")?.[1];
  if (value === undefined) return undefined;
  if (/^\d+(\.\d+)?$/.test(value)) return Number(value) * 1_000;
  const date = Date.parse(value);
  return Number.isNaN(date) ? undefined : Math.max(0, date - Date.now());
}

/** The client's view of a failed attempt. */
export function asGatewayError(error: UpstreamError, { context, endpoint }: Call): GatewayError {
  const message = `The engine${context.exposeEndpoint ? ` ${endpoint}` : ""} failed: ${error.message}`;
  switch (error.failure) {
    case "draining":
      return new GatewayError("draining", "The gateway is shutting down", null, error);
    case "preempted":
      return new GatewayError("preempted", "The request made room for one of higher priority", null, error);
    case "aborted":
      return new GatewayError("client_closed", "The client left", null, error);
    case "deadline":
      return new GatewayError("deadline_exceeded", error.message, null, error);
    case "header_timeout":
    case "first_byte_timeout":
    case "silent":
    case "idle_timeout":
    case "connect_timeout":
      return new GatewayError("upstream_timeout", message, null, error);
    default:
      return new GatewayError("upstream_failed", message, null, error);
  }
}
