// SPDX-License-Identifier: Apache-2.0
// Sends a request to the endpoint of its slot, and to another one when that could not be reached, was lost before any
// byte of its answer, or answered 503.

import { GatewayError } from "../base/errors.ts";
import type { Slot } from "../scheduler/scheduler.ts";
import type { EndpointTable } from "../tables/endpoint_table.ts";
import { WORKER_CELLS } from "../telemetry/instruments.ts";
import type { Connection } from "../upstream/connection.ts";
import type { EndpointPools } from "../upstream/endpoint_pools.ts";
import { UpstreamError } from "../upstream/errors.ts";
import type { Pool } from "../upstream/pool.ts";
import { requestHead } from "../upstream/request_head.ts";
import type { ResponseHead } from "../upstream/response_head.ts";
import type { Exchange } from "./exchange.ts";

/** What goes to the engine, whichever it is. */
export interface OutgoingRequest {
  /** Path and query. */
  readonly target: string;
  /** End-to-end header fields as text. */
  readonly fields: string;
  readonly body: Uint8Array;
}

/** The head of an engine's answer; its body is still on the connection. */
export interface Answer {
  readonly head: ResponseHead;
  readonly connection: Connection;
  readonly pool: Pool;
}

export class Dispatcher {
  constructor(readonly pools: EndpointPools, readonly endpoints: EndpointTable, readonly retries: number) {}

  /** `moved` is called when another endpoint is tried. Throws GatewayError: upstream_failed, upstream_timeout, client_closed. */
  async dispatch(slot: Slot, exchange: Exchange, outgoing: OutgoingRequest, moved: () => void): Promise<Answer> {
    for (;;) {
      const { name, pool } = this.pools.of(slot.endpoint, slot.dispatch());
      exchange.endpoint = name;
      exchange.tries++;
      const head = requestHead("POST", outgoing.target, name, outgoing.fields, outgoing.body.length);
      try {
        const answer = await pool.send(head, outgoing.body, exchange.signal, (connection) => exchange.hold(connection));
        this.endpoints.clearFailures(slot.endpoint);
        if (answer.head.status !== 503 || !this.#another(slot, exchange, moved)) return { ...answer, pool };
        answer.connection.close();
      } catch (error) {
        if (!(error instanceof UpstreamError)) throw error;
        if (error.failure === "connect_failed" || error.failure === "connect_timeout") {
          this.endpoints.countFailure(slot.endpoint);
          exchange.context.instruments.add(WORKER_CELLS.connectFailures);
        }
        if (!error.retriable || exchange.signal.aborted || !this.#another(slot, exchange, moved)) {
          throw asGatewayError(error, exchange);
        }
      }
    }
  }

  // Moves the slot on, when there are tries left and an endpoint that was not tried.
  #another(slot: Slot, exchange: Exchange, moved: () => void): boolean {
    if (exchange.tries > this.retries || !slot.tryAnother()) return false;
    exchange.context.instruments.add(WORKER_CELLS.retries);
    moved();
    return true;
  }
}

/** The client's view of a failed attempt. */
export function asGatewayError(error: UpstreamError, { context, endpoint }: Exchange): GatewayError {
  const message = `The engine${context.exposeEndpoint ? ` ${endpoint}` : ""} failed: ${error.message}`;
  switch (error.failure) {
    case "draining":
      return new GatewayError("draining", "The gateway is shutting down", null, error);
    case "aborted":
      return new GatewayError("client_closed", "The client left", null, error);
    case "header_timeout":
    case "idle_timeout":
    case "connect_timeout":
      return new GatewayError("upstream_timeout", message, null, error);
    default:
      return new GatewayError("upstream_failed", message, null, error);
  }
}
