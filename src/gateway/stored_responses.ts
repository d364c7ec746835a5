// SPDX-License-Identifier: Apache-2.0
// Stored responses (`/v1/responses`): their state is with the engine that made them, so follow-ups, reads and deletions
// go to that one.

import { GatewayError } from "../base/errors.ts";
import type { EndpointTable } from "../tables/endpoint_table.ts";
import type { PinTable } from "../tables/pin_table.ts";
import type { Dispatcher } from "./dispatch.ts";
import { Exchange, type ExchangeContext } from "./exchange.ts";
import { relayStored } from "./relay.ts";

const EMPTY: Uint8Array<ArrayBuffer> = new Uint8Array(0);

export class StoredResponses {
  constructor(
    readonly pins: PinTable,
    readonly endpoints: EndpointTable,
    readonly dispatcher: Dispatcher,
    readonly context: ExchangeContext,
  ) {}

  /** Remembers that an endpoint holds a response. */
  store(id: string, endpoint: number): void {
    if (id !== "") this.pins.set(id, endpoint, this.endpoints.generation(endpoint));
  }

  /** The endpoint row that holds a response; undefined when that is not known: any may try. */
  holder(id: string | undefined): number | undefined {
    if (id === undefined) return undefined;
    const pin = this.pins.get(id);
    return pin && this.endpoints.generation(pin.row) === pin.generation ? pin.row : undefined;
  }

  /** Hands a request for a stored response to its engine; never throws. */
  async pass(request: Request, id: string, target: string): Promise<Response> {
    const exchange = new Exchange(this.context, request, "responses");
    try {
      const row = this.holder(id);
      if (row === undefined) {
        throw new GatewayError("response_not_found", `The response ${JSON.stringify(id)} is not known here`);
      }
      const body = request.method === "POST" ? await request.bytes() : EMPTY;
      const outgoing = { method: request.method, target, fields: exchange.incoming.fields, body };
      return relayStored(
        await this.dispatcher.direct(row, this.endpoints.generation(row), exchange, outgoing),
        exchange,
      );
    } catch (error) {
      return exchange.refuse(error instanceof GatewayError ? error : new GatewayError("internal", String(error)));
    }
  }
}
