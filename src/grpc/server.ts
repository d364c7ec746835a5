// SPDX-License-Identifier: Apache-2.0
// A gRPC server over the runtime's plain sockets. It does for a fleet's own proxies what the library's server
// does, at a fraction of the processor time: `node:http2` gives up a connection whose calls are reset at their end more
// than 33 times a second, as Envoy ends them, and the runtime's own server sends no trailers.

import type { Address } from "../base/address.ts";
import type { Clock } from "../base/clock.ts";
import { SocketServer } from "../base/socket_server.ts";
import { GrpcConnection } from "./connection.ts";
import type { GrpcLimits, Methods } from "./methods.ts";

export interface GrpcServerParts {
  readonly clock: Clock;
  readonly limits: GrpcLimits;
  readonly methods: Methods;
}

export class GrpcServer {
  readonly #server: SocketServer;

  /** Throws what listening throws. */
  constructor(address: Address, { clock, limits, methods }: GrpcServerParts) {
    this.#server = new SocketServer(address, clock, (socket) => {
      socket.setNoDelay(true);
      socket.setKeepAlive(true);
      return new GrpcConnection(socket, limits, methods);
    });
  }

  get address(): Deno.NetAddr {
    return this.#server.address;
  }

  /** Accepts nothing new; resolves when the calls that are under way have ended. */
  shutdown(): Promise<void> {
    return this.#server.shutdown();
  }
}
