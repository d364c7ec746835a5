// SPDX-License-Identifier: Apache-2.0
// A worker's pool for each endpoint row it has sent to. A row that changed its identity gets a new pool.

import { formatAddress } from "../base/address.ts";
import type { Deadlines } from "../base/deadlines.ts";
import type { EndpointTable } from "../tables/endpoint_table.ts";
import { Pool, type PoolLimits } from "./pool.ts";

export interface EndpointPool {
  readonly generation: number;
  /** HOST:PORT */
  readonly name: string;
  readonly pool: Pool;
}

export class EndpointPools {
  readonly #pools = new Map<number, EndpointPool>();

  constructor(readonly endpoints: EndpointTable, readonly deadlines: Deadlines, readonly limits: PoolLimits) {}

  /** The pool of a row that carries a request of ours, so its identity stands still. */
  of(row: number, generation: number): EndpointPool {
    const known = this.#pools.get(row);
    if (known?.generation === generation) return known;
    known?.pool.close();
    const address = this.endpoints.address(row);
    const entry = { generation, name: formatAddress(address), pool: new Pool(address, this.deadlines, this.limits) };
    this.#pools.set(row, entry);
    return entry;
  }

  /** Closes connections that have been idle for too long. */
  sweep(): void {
    for (const { pool } of this.#pools.values()) pool.sweep();
  }

  close(): void {
    for (const { pool } of this.#pools.values()) pool.close();
    this.#pools.clear();
  }
}
