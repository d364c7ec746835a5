// SPDX-License-Identifier: Apache-2.0
// The direct front: HTTP/1.1 over the runtime's plain sockets, for those who count processor time. It serves what the
// runtime's own server serves, but for HTTP/2 and HTTPS.

import type { Address } from "../../base/address.ts";
import { HttpResponse } from "../http/exchange.ts";
import { DirectConnection, type DirectConnectionParts } from "./connection.ts";

export interface DirectServerLimits {
  /** Most connections of a worker, and of one client address; 0 for no such limit. */
  connections: number;
  connectionsPerAddress: number;
}

export interface DirectServerParts extends Omit<DirectConnectionParts, "refusal"> {
  readonly bounds: DirectServerLimits;
  /** Is told by how much the connections have become more or fewer. */
  counted(change: 1 | -1): void;
  /** A connection was turned away. */
  refused(): void;
}

/** Connections that may wait to be accepted; the system may have a lower limit. */
const BACKLOG = 4_096;
/** Where the system has no more sockets, it is asked again after as long. */
const RETRY_MS = 50;

export class DirectServer {
  readonly #connections = new Set<DirectConnection>();
  readonly #byAddress = new Map<string, number>();
  readonly #listener: Deno.TcpListener;
  readonly #parts: DirectServerParts;
  /** What all connections share. */
  readonly #shared: DirectConnectionParts;
  #closing = false;
  readonly #over = Promise.withResolvers<void>();

  /** Throws what listening throws. */
  constructor(address: Address, parts: DirectServerParts) {
    this.#parts = parts;
    const { deadlines, limits, answer } = parts;
    this.#shared = { deadlines, limits, answer, refusal };
    // The runtime knows reusePort here as it does for its own server; its types do not.
    const options: Deno.TcpListenOptions & { reusePort: boolean } = {
      ...address,
      reusePort: true,
      tcpBacklog: BACKLOG,
    };
    this.#listener = Deno.listen(options);
    this.#accept();
  }

  async #accept(): Promise<void> {
    const { deadlines: { clock } } = this.#parts;
    while (!this.#closing) {
      try {
        this.#take(await this.#listener.accept());
      } catch {
        if (!this.#closing) await new Promise<void>((resolve) => clock.after(RETRY_MS, resolve));
      }
    }
  }

  #take(socket: Deno.TcpConn): void {
    const { bounds, counted, refused } = this.#parts;
    const { hostname } = socket.remoteAddr as Deno.NetAddr;
    const here = this.#byAddress.get(hostname) ?? 0;
    if (
      this.#closing || (bounds.connections > 0 && this.#connections.size >= bounds.connections) ||
      (bounds.connectionsPerAddress > 0 && here >= bounds.connectionsPerAddress)
    ) {
      refused();
      socket.close();
      return;
    }
    const connection = new DirectConnection(socket, this.#shared);
    this.#connections.add(connection);
    this.#byAddress.set(hostname, here + 1);
    counted(1);
    connection.serve().then(() => {
      this.#connections.delete(connection);
      const left = this.#byAddress.get(hostname)! - 1;
      if (left === 0) this.#byAddress.delete(hostname);
      else this.#byAddress.set(hostname, left);
      counted(-1);
      if (this.#closing && this.#connections.size === 0) this.#over.resolve();
    });
  }

  /** Accepts nothing new; resolves when what is under way has been answered. */
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

/** What each refused head is, in the words of the API. */
const CODES: Readonly<Record<number, string | undefined>> = { 408: "request_timeout", 431: "headers_too_large" };

function refusal(status: number, message: string): HttpResponse {
  const code = CODES[status] ?? (status === 501 || status === 505 ? "not_supported" : "invalid_request");
  const error = { message: `The request is refused: ${message}`, type: "BadRequestError", param: null, code };
  const response = new HttpResponse(status, JSON.stringify({ error }));
  response.append("content-type", "application/json");
  response.append("x-aigw-reason", code);
  return response;
}
