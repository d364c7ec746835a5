// SPDX-License-Identifier: Apache-2.0
// Idle connections to one endpoint, the one used last first. An engine may close an idle connection at any moment: they are
// kept for less long than it says or the config allows, and one whose end has arrived is not used. Where the engine closes
// it while a request is on its way, nobody can tell whether it was executed. So a request goes out again on its own
// only when it could not be written whole; anything else is a failed attempt, and retries decide.

import type { Address } from "../base/address.ts";
import type { Deadlines } from "../base/deadlines.ts";
import type { BodyRest } from "./body_rest.ts";
import { Connection, type ConnectionLimits } from "./connection.ts";
import { UpstreamError } from "./errors.ts";
import type { ResponseHead } from "./response_head.ts";
import { PLAIN, type Transport } from "./transport.ts";

/** Connections are closed this much earlier than their engine does it, or at half of its time. */
const KEEP_ALIVE_MARGIN_MS = 1_000;

export interface PoolLimits extends ConnectionLimits {
  idleConnections: number;
  idleConnectionMs: number;
}

/** A request as it is written. */
export interface OutgoingMessage {
  readonly head: string;
  readonly body: Uint8Array;
  /** What of the body is still to come. */
  readonly rest?: BodyRest;
}

export class Pool {
  readonly #idle: Connection[] = [];
  #closed = false;
  #keepAliveMs = Infinity;
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
   * body from. `waitsFor` is told what the caller waits for, so that it can be failed when the client leaves; `fresh` asks
   * for a new connection. Throws UpstreamError.
   */
  async send(
    { head, body, rest }: OutgoingMessage,
    waitsFor: (waiting: { fail(error: UpstreamError): void }) => void,
    fresh = false,
  ): Promise<{ head: ResponseHead; connection: Connection }> {
    this.#usedAt = this.deadlines.clock.now();
    for (let idle = fresh ? undefined : this.#take(); idle !== undefined; idle = this.#take()) {
      waitsFor(idle);
      try {
        return { head: await idle.send(head, body, rest), connection: idle };
      } catch (error) {
        if (!(error instanceof UpstreamError) || error.failure !== "lost_before_answer") throw error;
        error.reused = true;
        if (!error.unsent) throw error;
      }
    }
    const connection = await Connection.open(this, waitsFor);
    connection.home = this;
    waitsFor(connection);
    return { head: await connection.send(head, body, rest), connection };
  }

  #take(): Connection | undefined {
    const oldest = this.deadlines.clock.now() - this.idleMs;
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
    const { keepAliveMs } = connection;
    if (keepAliveMs !== undefined) this.#keepAliveMs = Math.max(keepAliveMs - KEEP_ALIVE_MARGIN_MS, keepAliveMs / 2);
    connection.idleSince = this.deadlines.clock.now();
    this.#idle.push(connection);
    connection.park(this.#lost);
  }

  readonly #lost = (connection: Connection): void => {
    const index = this.#idle.indexOf(connection);
    if (index >= 0) this.#idle.splice(index, 1);
  };

  /** How long an idle connection is kept: less long than the engine said that it would. */
  get idleMs(): number {
    return Math.min(this.limits.idleConnectionMs, this.#keepAliveMs);
  }

  /** Closes what has been idle for too long. */
  sweep(): void {
    const oldest = this.deadlines.clock.now() - this.idleMs;
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
