// SPDX-License-Identifier: Apache-2.0
// Stored responses (`/v1/responses`): their state is with the engine that made them, so follow-ups, reads and deletions
// go to that one.

import { GatewayError } from "../base/errors.ts";
import type { Config } from "../config/schema.ts";
import type { Tenant } from "../admission/tenants.ts";
import type { Placement } from "../scheduler/placement.ts";
import type { EndpointTable } from "../tables/endpoint_table.ts";
import type { PinTable } from "../tables/pin_table.ts";
import { readBody } from "./body.ts";
import type { Dispatcher } from "./dispatch.ts";
import { Exchange, type ExchangeContext } from "./exchange.ts";
import { checkHead } from "./head.ts";
import { NO_SLOT, relay } from "./relay.ts";

const EMPTY: Uint8Array<ArrayBuffer> = new Uint8Array(0);

export class StoredResponses {
  constructor(
    readonly pins: PinTable,
    readonly endpoints: EndpointTable,
    readonly dispatcher: Dispatcher,
    readonly context: ExchangeContext,
    readonly config: Config,
  ) {}

  /** Remembers that an endpoint holds a response. */
  store(id: string, endpoint: number, tenant: Tenant): void {
    if (id !== "") this.pins.set(keyOf(id, tenant), endpoint, this.endpoints.generation(endpoint));
  }

  /**
   * The endpoint row that holds a response; undefined when that is not known: any may try. With a placement it has to be
   * one of its endpoints. Throws GatewayError (response_not_found) when it is another's.
   */
  holder(id: string | undefined, tenant: Tenant, placement?: Placement): number | undefined {
    if (id === undefined) return undefined;
    const pin = this.pins.get(keyOf(id, tenant));
    if (!pin || !this.pins.matches(pin.generation, this.endpoints.generation(pin.row))) return undefined;
    if (placement && !this.endpoints.belongs(pin.row, placement.cluster, placement.eligibility)) {
      throw new GatewayError(
        "response_not_found",
        `The response ${JSON.stringify(id)} is not one of this model's`,
        "previous_response_id",
      );
    }
    return pin.row;
  }

  /** Hands a request for a stored response to its engine; never throws. */
  async pass(request: Request, id: string): Promise<Response> {
    const { limits, timeouts } = this.config;
    const exchange = new Exchange(this.context, request, "responses");
    try {
      const target = checkHead(exchange, request.url, limits);
      const tenant = exchange.authenticate();
      const row = this.holder(id, tenant);
      if (row === undefined) {
        throw new GatewayError("response_not_found", `The response ${JSON.stringify(id)} is not known here`);
      }
      const reading = { bytes: limits.body_bytes, ms: timeouts.request_body_ms };
      const body = request.method === "POST" ? await readBody(request, exchange, reading) : EMPTY;
      exchange.unlimit();
      const outgoing = { method: request.method, target, fields: exchange.incoming.fields, body };
      const answer = await this.dispatcher.direct(row, this.endpoints.generation(row), exchange, outgoing);
      return relay(answer, NO_SLOT, exchange, "responses", {
        deadlines: this.context.deadlines,
        clientStallMs: timeouts.client_stall_ms,
        hideUsage: false,
        splitReasoning: false,
      });
    } catch (error) {
      return exchange.refuse(error instanceof GatewayError ? error : new GatewayError("internal", String(error)));
    }
  }
}

// A response is its tenant's: nobody else finds it.
function keyOf(id: string, { row, name }: Tenant): string {
  return row === 0 ? id : `${name}\n${row}\n${id}`;
}
