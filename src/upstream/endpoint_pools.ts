// SPDX-License-Identifier: Apache-2.0
// A worker's pool for each endpoint row it has sent to. A row that changed its identity gets a new pool, and so does one
// that is reached in another way.

import type { Deadlines } from "../base/deadlines.ts";
import type { EndpointRef } from "../tables/endpoint_directory.ts";
import { Pool, type PoolLimits } from "./pool.ts";
import type { Transport } from "./transport.ts";

interface EndpointPool {
  readonly generation: number;
  readonly transport: Transport;
  readonly pool: Pool;
}

export class EndpointPools {
  readonly #pools = new Map<number, EndpointPool>();

  /** @param limits May be changed: they hold for connections from then on. */
  constructor(readonly deadlines: Deadlines, readonly limits: PoolLimits) {}

  /** The pool of an endpoint that carries a request of ours, so its identity stands still. */
  of({ row, generation, address }: EndpointRef, transport: Transport): Pool {
    const known = this.#pools.get(row);
    if (known?.generation === generation && known.transport === transport) return known.pool;
    known?.pool.close();
    const pool = new Pool(address, this.deadlines, this.limits, transport);
    this.#pools.set(row, { generation, transport, pool });
    return pool;
  }

  /** Closes connections that have been idle for too long, and forgets the pools that have none. */
  sweep(): void {
    for (const [row, { pool }] of this.#pools) {
      pool.sweep();
      if (!pool.unused) continue;
      pool.close();
      this.#pools.delete(row);
    }
  }

  close(): void {
    for (const { pool } of this.#pools.values()) pool.close();
    this.#pools.clear();
  }
}
