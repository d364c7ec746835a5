// SPDX-License-Identifier: Apache-2.0
// Where engines connect to that publish to whoever listens for them. Which engine it is, the topic of its messages tells, in
// llm-d's convention: kv@HOST:PORT@MODEL.

import type { Address } from "../base/address.ts";
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
  readonly #listener: Deno.TcpListener;
  readonly #open = new Set<{ close(): void }>();
  readonly #accepting: Promise<void>;
  #closed = false;

  /** Throws Deno.errors.AddrInUse. */
  constructor(address: Address, readonly parts: EventPortParts) {
    this.#listener = Deno.listen(address);
    this.#accepting = this.#accept();
  }

  get port(): number {
    return this.#listener.addr.port;
  }

  async #accept(): Promise<void> {
    while (!this.#closed) {
      let stream: Deno.TcpConn;
      try {
        stream = await this.#listener.accept();
      } catch (error) {
        if (this.#closed) return;
        this.parts.refused(error as Error);
        await new Promise((resolve) => setTimeout(resolve, 100)); // out of file descriptors, most likely
        continue;
      }
      stream.setKeepAlive();
      if (this.#open.size >= this.parts.connections) stream.close();
      else this.#serve(stream).catch((error) => this.#closed || this.parts.refused(error));
    }
  }

  async #serve(stream: Deno.TcpConn): Promise<void> {
    this.#open.add(stream);
    const limit = setTimeout(() => stream.close(), this.parts.connectMs);
    let connection: ZmtpConnection;
    try {
      connection = await ZmtpConnection.open(stream, "SUB", this.parts.messageBytes);
    } finally {
      clearTimeout(limit);
      this.#open.delete(stream);
    }
    using own = connection;
    this.#open.add(own);
    try {
      await subscribe(own, "");
      // An engine that has nothing to do has nothing to tell.
      const first = await own.receive();
      if (first === undefined) return;
      const name = nameIn(first);
      const adopted = name === undefined ? undefined : this.parts.adopt(name, own, first);
      if (adopted === undefined) {
        throw new Error(
          `its topic names no endpoint: expected kv@HOST:PORT@MODEL${name === undefined ? "" : `, found ${name}`}`,
        );
      }
      await adopted;
    } finally {
      this.#open.delete(own);
    }
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#listener.close();
    for (const connection of this.#open) connection.close();
    await this.#accepting;
  }
}

function nameIn([topic]: Message): string | undefined {
  return /^kv@([^@]+)/.exec(new TextDecoder().decode(topic))?.[1];
}
