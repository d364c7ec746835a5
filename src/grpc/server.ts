// SPDX-License-Identifier: Apache-2.0
// A gRPC server over the runtime's plain sockets. It does for a fleet's own proxies what the library's server
// does, at a fraction of the processor time: `node:http2` gives up a connection whose calls are reset at their end more
// than 33 times a second, as Envoy ends them, and the runtime's own server sends no trailers.

import type { Address } from "../base/address.ts";
import { pause } from "../base/pause.ts";
import type { Clock } from "../base/clock.ts";
import { GrpcConnection } from "./connection.ts";
import type { GrpcLimits, Methods } from "./methods.ts";

export interface GrpcServerParts {
  readonly clock: Clock;
  readonly limits: GrpcLimits;
  readonly methods: Methods;
}

const BACKLOG = 1_024;
const RETRY_MS = 50;
const NEVER = new AbortController().signal;

export class GrpcServer {
  readonly #connections = new Set<GrpcConnection>();
  readonly #listener: Deno.TcpListener;
  readonly #parts: GrpcServerParts;
  #closing = false;
  readonly #over = Promise.withResolvers<void>();

  /** Throws what listening throws. */
  constructor(address: Address, parts: GrpcServerParts) {
    this.#parts = parts;
    // The runtime knows reusePort here as it does for its own server; its types do not.
    const options: Deno.TcpListenOptions & { reusePort: boolean } = {
      ...address,
      reusePort: true,
      tcpBacklog: BACKLOG,
    };
    this.#listener = Deno.listen(options);
    this.#accept();
  }

  get address(): Deno.NetAddr {
    return this.#listener.addr as Deno.NetAddr;
  }

  async #accept(): Promise<void> {
    while (!this.#closing) {
      try {
        this.#take(await this.#listener.accept());
      } catch {
        if (!this.#closing) await pause(RETRY_MS, this.#parts.clock, NEVER);
      }
    }
  }

  #take(socket: Deno.TcpConn): void {
    if (this.#closing) return socket.close();
    socket.setNoDelay(true);
    socket.setKeepAlive(true);
    const connection = new GrpcConnection(socket, this.#parts.limits, this.#parts.methods);
    this.#connections.add(connection);
    connection.serve().then(() => {
      this.#connections.delete(connection);
      if (this.#closing && this.#connections.size === 0) this.#over.resolve();
    });
  }

  /** Accepts nothing new; resolves when the calls that are under way have ended. */
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
