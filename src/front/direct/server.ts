// SPDX-License-Identifier: Apache-2.0
// The direct front: HTTP/1.1 over the runtime's plain sockets, for those who count processor time. It serves what the
// runtime's own server serves, but for HTTP/2 and HTTPS.

import type { Address } from "../../base/address.ts";
import { type ServedConnection, SocketServer } from "../../base/socket_server.ts";
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

export class DirectServer {
  readonly #server: SocketServer;
  readonly #byAddress = new Map<string, number>();
  readonly #parts: DirectServerParts;
  /** What all connections share. */
  readonly #shared: DirectConnectionParts;

  /** Throws what listening throws. */
  constructor(address: Address, parts: DirectServerParts) {
    this.#parts = parts;
    const { deadlines, limits, answer } = parts;
    this.#shared = { deadlines, limits, answer, refusal };
    this.#server = new SocketServer(address, deadlines.clock, (socket) => this.#take(socket));
  }

  #take(socket: Deno.TcpConn): ServedConnection | undefined {
    const { bounds, counted, refused } = this.#parts;
    const { hostname } = socket.remoteAddr as Deno.NetAddr;
    const here = this.#byAddress.get(hostname) ?? 0;
    if (
      (bounds.connections > 0 && this.#server.size >= bounds.connections) ||
      (bounds.connectionsPerAddress > 0 && here >= bounds.connectionsPerAddress)
    ) {
      refused();
      return undefined;
    }
    const connection = new DirectConnection(socket, this.#shared);
    this.#byAddress.set(hostname, here + 1);
    counted(1);
    return {
      serve: () => connection.serve().then(() => this.#ended(hostname)),
      finish: () => connection.finish(),
    };
  }

  #ended(hostname: string): void {
    const left = this.#byAddress.get(hostname)! - 1;
    if (left === 0) this.#byAddress.delete(hostname);
    else this.#byAddress.set(hostname, left);
    this.#parts.counted(-1);
  }

  /** Accepts nothing new; resolves when what is under way has been answered. */
  shutdown(): Promise<void> {
    return this.#server.shutdown();
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
