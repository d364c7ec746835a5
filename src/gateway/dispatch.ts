// SPDX-License-Identifier: Apache-2.0
// Sends a request to the endpoint of its slot, and to another one when that failed before anything of its answer went on
// to the client, or said that it is busy: as long as there are tries, a retry budget and time. What an endpoint does is
// noted on its row: failures in a row, successes, and how long it wants to be left alone.

import { GatewayError } from "../base/errors.ts";
import type { Slot } from "../scheduler/scheduler.ts";
import type { EndpointTable } from "../tables/endpoint_table.ts";
import { WORKER_CELLS } from "../telemetry/instruments.ts";
import type { EndpointPools } from "../upstream/endpoint_pools.ts";
import { UpstreamError } from "../upstream/errors.ts";
import { requestHead } from "../upstream/request_head.ts";
import type { ResponseHead } from "../upstream/response_head.ts";
import type { RetryBudget } from "../upstream/retry_budget.ts";
import { type Answer, type AnswerBody, type AnswerLimits, openAnswer } from "./answer.ts";
import type { Exchange } from "./exchange.ts";

/** What goes to the engine, whichever it is. */
export interface OutgoingRequest {
  readonly method: string;
  /** Path and query. */
  readonly target: string;
  /** End-to-end header fields as text. */
  readonly fields: string;
  readonly body: Uint8Array<ArrayBuffer>;
  /** For engines of another protocol: sends it there, or turns the answer into OpenAI's. */
  readonly transcoder?: Transcoder;
}

/** An answer whose body has not been read. */
export interface Opened {
  readonly head: ResponseHead;
  readonly body: AnswerBody;
}

export interface Transcoder {
  /** Sends the request over the engine's own protocol; without it, over HTTP. Throws UpstreamError. */
  send?(endpoint: string, exchange: Exchange): Promise<Opened>;
  /** Turns an engine's HTTP answer into OpenAI's. Throws UpstreamError. */
  wrap?(opened: Opened): Opened;
}

export interface DispatchOptions {
  /** Further endpoints tried. */
  readonly retries: number;
  readonly budget: RetryBudget;
  readonly answers: AnswerLimits;
  /** How long a busy endpoint is left alone when it does not say, and at most; 0 for not at all. */
  readonly backpressureMs: number;
  readonly maxBackpressureMs: number;
}

const BUSY = new Set([429, 503]);
const RETRIED = new Set([429, 502, 503, 504]);

export class Dispatcher {
  constructor(readonly pools: EndpointPools, readonly endpoints: EndpointTable, readonly options: DispatchOptions) {}

  /**
   * `moved` is called when another endpoint is tried. Throws GatewayError: upstream_failed, upstream_timeout,
   * deadline_exceeded, client_closed, draining.
   */
  async dispatch(slot: Slot, exchange: Exchange, outgoing: OutgoingRequest, moved: () => void): Promise<Answer> {
    this.options.budget.deposit();
    for (;;) {
      try {
        exchange.endpointRow = slot.endpoint;
        exchange.predictedMs = slot.predictMs();
        const opening = this.#send(slot.endpoint, slot.dispatch(), exchange, outgoing);
        const { head, body } = await opening;
        const opened = openAnswer(head, body, this.options.answers);
        const answer = opened instanceof Promise ? await opened : opened;
        this.#note(slot.endpoint, answer);
        if (!RETRIED.has(answer.head.status) || !this.#another(slot, exchange, moved)) return answer;
        if (answer.whole === undefined) body.close();
        else body.finish();
      } catch (error) {
        if (!(error instanceof UpstreamError)) throw error;
        if (error.endpointFailed) {
          slot.failed();
          if (error.failure === "connect_failed" || error.failure === "connect_timeout") {
            exchange.context.instruments.add(WORKER_CELLS.connectFailures);
          }
        }
        if (!error.endpointFailed || exchange.gone || !this.#another(slot, exchange, moved)) {
          throw asGatewayError(error, exchange);
        }
      }
    }
  }

  /** Sends a request to one endpoint without a slot: a look at what it holds. Throws as `dispatch` does. */
  async direct(row: number, generation: number, exchange: Exchange, outgoing: OutgoingRequest): Promise<Answer> {
    try {
      const { head, body } = await this.#send(row, generation, exchange, outgoing);
      return await openAnswer(head, body, this.options.answers);
    } catch (error) {
      throw error instanceof UpstreamError ? asGatewayError(error, exchange) : error;
    }
  }

  async #send(row: number, generation: number, exchange: Exchange, outgoing: OutgoingRequest): Promise<Opened> {
    const { name, pool } = this.pools.of(row, generation);
    exchange.endpoint = name;
    exchange.tries++;
    exchange.sentAt = exchange.context.clock.now();
    const { transcoder } = outgoing;
    if (transcoder?.send) return await transcoder.send(name, exchange);
    const head = requestHead(outgoing.method, outgoing.target, name, outgoing.fields, outgoing.body.length);
    const { head: answered, connection } = await pool.send(head, outgoing.body, exchange.hold);
    const opened = { head: answered, body: connection };
    return transcoder?.wrap ? transcoder.wrap(opened) : opened;
  }

  #note(endpoint: number, { head: { status, headers }, whole }: Answer): void {
    if (BUSY.has(status)) {
      const { backpressureMs, maxBackpressureMs } = this.options;
      const ms = Math.min(maxBackpressureMs, retryAfterMs(headers) ?? backpressureMs);
      if (ms > 0) this.endpoints.setReluctant(endpoint, ms);
    } else if (status >= 500) this.endpoints.countFailure(endpoint);
    else {
      this.endpoints.countSuccess(endpoint);
      if (whole !== undefined) this.endpoints.clearFailures(endpoint);
    }
  }

  // Moves the slot on, when there are tries left, a budget for them, and an endpoint that was not tried.
  #another(slot: Slot, exchange: Exchange, moved: () => void): boolean {
    if (exchange.tries > this.options.retries || exchange.gone) return false;
    const { budget } = this.options;
    if (!budget.available) {
      exchange.context.instruments.add(WORKER_CELLS.retriesRefused);
      return false;
    }
    if (!slot.tryAnother()) return false;
    budget.tryWithdraw();
    exchange.context.instruments.add(WORKER_CELLS.retries);
    moved();
    return true;
  }
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
export function asGatewayError(error: UpstreamError, { context, endpoint }: Exchange): GatewayError {
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
    case "idle_timeout":
    case "connect_timeout":
      return new GatewayError("upstream_timeout", message, null, error);
    default:
      return new GatewayError("upstream_failed", message, null, error);
  }
}
