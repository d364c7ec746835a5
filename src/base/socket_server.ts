// SPDX-License-Identifier: Apache-2.0
// A listener over the runtime's plain sockets whose port workers share, and its connections up to the end of the last one.

import type { Address } from "./address.ts";
import type { Clock } from "./clock.ts";

export interface ServedConnection {
  /** Serves it to its end; never rejects. */
  serve(): Promise<void>;
  /** It takes nothing new; what is under way is answered. */
  finish(): void;
}

/** Connections that may wait to be accepted; the system may have a lower limit. */
const BACKLOG = 4_096;
/** Where the system has no more sockets, it is asked again after as long. */
const RETRY_MS = 50;

export class SocketServer {
  readonly #connections = new Set<ServedConnection>();
  readonly #listener: Deno.TcpListener;
  #closing = false;
  readonly #over = Promise.withResolvers<void>();

  /**
   * Throws what listening throws.
   * @param open Takes a socket up; undefined when it is turned away: then it is closed.
   */
  constructor(
    address: Address,
    readonly clock: Clock,
    readonly open: (socket: Deno.TcpConn) => ServedConnection | undefined,
    /** Whether others may listen there, too: workers do. */
    reusePort = true,
  ) {
    // The runtime knows reusePort here as it does for its own server; its types do not.
    const options: Deno.TcpListenOptions & { reusePort: boolean } = {
      ...address,
      reusePort,
      tcpBacklog: BACKLOG,
    };
    this.#listener = Deno.listen(options);
    this.#accept();
  }

  get address(): Deno.NetAddr {
    return this.#listener.addr as Deno.NetAddr;
  }

  /** Connections that are open. */
  get size(): number {
    return this.#connections.size;
  }

  async #accept(): Promise<void> {
    while (!this.#closing) {
      try {
        this.#take(await this.#listener.accept());
      } catch {
        if (!this.#closing) await new Promise<void>((resolve) => this.clock.after(RETRY_MS, resolve));
      }
    }
  }

  #take(socket: Deno.TcpConn): void {
    const connection = this.#closing ? undefined : this.open(socket);
    if (connection === undefined) return socket.close();
    this.#connections.add(connection);
    connection.serve().then(() => {
      this.#connections.delete(connection);
      if (this.#closing && this.#connections.size === 0) this.#over.resolve();
    });
  }

  /** Accepts nothing new; resolves when what is under way has ended. */
  shutdown(): Promise<void> {
    if (!this.#closing) {
      this.#closing = true;
      this.#listener.close();
      for (const connection of this.#connections) connection.finish();
      if (this.#connections.size === 0) this.#over.resolve();
    }
    return this.#over.promise;
  }
}
