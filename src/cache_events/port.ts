// SPDX-License-Identifier: Apache-2.0
// Where engines connect to that publish to whoever listens for them. Which engine it is, the topic of its messages tells, in
// llm-d's convention: kv@HOST:PORT@MODEL.

import type { Address } from "../base/address.ts";
import type { Clock } from "../base/clock.ts";
import { type ServedConnection, SocketServer } from "../base/socket_server.ts";
import { type Message, ZmtpConnection } from "../zmtp/connection.ts";
import { subscribe } from "./source.ts";

export interface EventPortParts {
  readonly messageBytes: number;
  /** Time for the greeting. */
  readonly connectMs: number;
  /** Connections at once; further ones are closed. */
  readonly connections: number;
  /** Takes what an engine HOST:PORT publishes, until its connection ends; undefined where there is no such engine. */
  adopt(name: string, connection: ZmtpConnection, first: Message): Promise<void> | undefined;
  /** Is told why a connection is of no use. */
  refused(error: Error): void;
}

export class EventPort {
  readonly #server: SocketServer;

  /** Throws Deno.errors.AddrInUse. */
  constructor(address: Address, clock: Clock, readonly parts: EventPortParts) {
    this.#server = new SocketServer(address, clock, (socket) => this.#take(socket), false);
  }

  #take(socket: Deno.TcpConn): ServedConnection | undefined {
    if (this.#server.size >= this.parts.connections) return undefined;
    socket.setKeepAlive();
    let closed = false;
    return {
      serve: () =>
        this.#serve(socket).catch((error) => {
          if (!closed) this.parts.refused(error);
        }),
      finish() {
        closed = true;
        try {
          socket.close();
        } catch {
          // it has ended already
        }
      },
    };
  }

  async #serve(socket: Deno.TcpConn): Promise<void> {
    const limit = setTimeout(() => socket.close(), this.parts.connectMs);
    let greeted: ZmtpConnection;
    try {
      greeted = await ZmtpConnection.open(socket, "SUB", this.parts.messageBytes);
    } finally {
      clearTimeout(limit);
    }
    using connection = greeted;
    await subscribe(connection, "");
    // An engine that has nothing to do has nothing to tell.
    const first = await connection.receive();
    if (first === undefined) return;
    const name = nameIn(first);
    const adopted = name === undefined ? undefined : this.parts.adopt(name, connection, first);
    if (adopted === undefined) {
      const found = name === undefined ? "" : `, found ${name}`;
      throw new Error(`its topic names no endpoint: expected kv@HOST:PORT@MODEL${found}`);
    }
    await adopted;
  }

  async close(): Promise<void> {
    await this.#server.shutdown();
  }
}

function nameIn([topic]: Message): string | undefined {
  return /^kv@([^@]+)/.exec(new TextDecoder().decode(topic))?.[1];
}
