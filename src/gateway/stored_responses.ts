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

  /**
   * The endpoint row that has a response; undefined when that is not known: any may try. With a placement it has to be
   * one of its endpoints. Throws GatewayError (response_not_found) when it is another's.
   */
  rowOf(id: string | undefined, tenant: Tenant, placement?: Placement): number | undefined {
    if (id === undefined) return undefined;
    const entry = this.table.get(keyOf(id, tenant));
    if (!entry || !this.table.matches(entry.generation, this.endpoints.generation(entry.row))) return undefined;
    if (placement && !this.endpoints.belongs(entry.row, placement.cluster, placement.eligibility)) {
      throw new GatewayError(
        "response_not_found",
        `The response ${JSON.stringify(id)} is not one of this model's`,
        "previous_response_id",
      );
    }
    return entry.row;
  }
}

// A response is its tenant's: nobody else finds it.
function keyOf(id: string, { row, name }: Tenant): string {
  return row === 0 ? id : `${name}\n${row}\n${id}`;
}
