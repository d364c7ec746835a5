// SPDX-License-Identifier: Apache-2.0
// Stored responses (`/v1/responses`): their state is with the engine that made them, so follow-ups, reads and deletions
// go to that one.

import type { Tenant } from "../admission/tenants.ts";
import { GatewayError } from "../base/errors.ts";
import type { Placement } from "../scheduler/placement.ts";
import type { EndpointTable } from "../tables/endpoint_table.ts";
import type { ResponseTable } from "../tables/response_table.ts";

export class StoredResponses {
  constructor(readonly table: ResponseTable, readonly endpoints: EndpointTable) {}

  /** Remembers that an endpoint has a response. */
  store(id: string, row: number, generation: number, tenant: Tenant): void {
    if (id !== "") this.table.set(keyOf(id, tenant), row, generation);
  }

  /** The endpoint row that has a response; undefined when that is not known. */
  rowOf(id: string, tenant: Tenant): number | undefined {
    const entry = this.table.get(keyOf(id, tenant));
    if (!entry || !this.table.matches(entry.generation, this.endpoints.generation(entry.row))) return undefined;
    return entry.row;
  }

  /**
   * The endpoint row that a follow-up has to go to; undefined for any. Throws GatewayError (response_not_found) when that
   * row is of another model, and, where tenants are `apart`, when it is not known: the response may be another tenant's,
   * whom an engine does not tell from this one.
   */
  endpointFor(id: string | undefined, tenant: Tenant, placement: Placement, apart: boolean): number | undefined {
    if (id === undefined) return undefined;
    const row = this.rowOf(id, tenant);
    if (row === undefined) {
      if (apart) throw notFound(`The response ${JSON.stringify(id)} is not known here as one of yours`);
      return undefined;
    }
    if (this.endpoints.belongs(row, placement.cluster, placement.eligibility)) return row;
    throw notFound(`The response ${JSON.stringify(id)} is not one of this model's`);
  }
}

function notFound(message: string): GatewayError {
  return new GatewayError("response_not_found", message, "previous_response_id");
}

// A response is its tenant's: nobody else finds it.
function keyOf(id: string, { row, name }: Tenant): string {
  return row === 0 ? id : `${name}\n${row}\n${id}`;
}
