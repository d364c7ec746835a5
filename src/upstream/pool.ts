// SPDX-License-Identifier: Apache-2.0
// Idle connections to one endpoint, the one used last first. An engine may close an idle connection at any moment, so one
// that fails at once, before any byte of an answer, is replaced by a fresh one without counting as a failed attempt.

import type { Address } from "../base/address.ts";
import type { Deadlines } from "../base/deadlines.ts";
import { Connection, type ConnectionLimits } from "./connection.ts";
import { UpstreamError } from "./errors.ts";
import type { ResponseHead } from "./response_head.ts";
import { PLAIN, type Transport } from "./transport.ts";

/** A connection that its engine had closed already fails within this; later it is the request that was lost. */
const STALE_MS = 100;

export interface PoolLimits extends ConnectionLimits {
  idleConnections: number;
  idleConnectionMs: number;
}

export class Pool {
  readonly #idle: Connection[] = [];
  #closed = false;
  #usedAt: number;

  constructor(
    readonly address: Address,
    readonly deadlines: Deadlines,
    readonly limits: PoolLimits,
    readonly transport: Transport = PLAIN,
  ) {
    this.#usedAt = deadlines.clock.now();
  }

  /**
   * Sends a request on an idle connection or a new one and returns the answer's head with the connection to read its
   * body from. `hold` is told what the caller waits for, so that it can be failed when the client leaves. Throws
   * UpstreamError.
   */
  async send(
    head: string,
    body: Uint8Array,
    hold: (waiting: { fail(error: UpstreamError): void }) => void,
  ): Promise<{ head: ResponseHead; connection: Connection }> {
    const sentAt = this.#usedAt = this.deadlines.clock.now();
    const idle = this.#take();
    if (idle) {
      hold(idle);
      try {
        return { head: await idle.send(head, body), connection: idle };
      } catch (error) {
        const stale = error instanceof UpstreamError && error.failure === "lost_before_answer" &&
          this.deadlines.clock.now() - sentAt < STALE_MS;
        if (!stale) throw error;
      }
    }
    const connection = await Connection.open(this, hold);
    connection.home = this;
    hold(connection);
    return { head: await connection.send(head, body), connection };
  }

  #take(): Connection | undefined {
    const oldest = this.deadlines.clock.now() - this.limits.idleConnectionMs;
    for (;;) {
      const connection = this.#idle.pop();
      if (!connection || connection.idleSince >= oldest) return connection;
      connection.close();
    }
  }

  /** Takes a connection back after its exchange; closes it when it cannot be used again. */
  give(connection: Connection): void {
    if (this.#closed || !connection.reusable || this.#idle.length >= this.limits.idleConnections) {
      connection.close();
      return;
    }
    connection.idleSince = this.deadlines.clock.now();
    this.#idle.push(connection);
    connection.park(this.#lost);
  }

  readonly #lost = (connection: Connection): void => {
    const index = this.#idle.indexOf(connection);
    if (index >= 0) this.#idle.splice(index, 1);
  };

  /** Closes what has been idle for too long. */
  sweep(): void {
    const oldest = this.deadlines.clock.now() - this.limits.idleConnectionMs;
    while (this.#idle.length > 0 && this.#idle[0].idleSince < oldest) this.#idle.shift()!.close();
  }

  /** Whether it has no connection and was not used for a while. */
  get unused(): boolean {
    return this.#idle.length === 0 && this.deadlines.clock.now() - this.#usedAt > this.limits.idleConnectionMs;
  }

  close(): void {
    this.#closed = true;
    for (const connection of this.#idle.splice(0)) connection.close();
  }

  get idle(): number {
    return this.#idle.length;
  }
}
