// SPDX-License-Identifier: Apache-2.0
// A worker's listeners: one in cleartext, and one with HTTPS whose certificate may be renewed. Workers share their ports, and
// so do the old and the new listener while one takes over from the other.

import type { Address } from "../base/address.ts";
import type { HttpRequest, HttpResponse } from "../front/http/exchange.ts";
import { ServedRequest, toResponse } from "../front/http/served.ts";
import type { Certificate } from "./protocol.ts";

export interface ListenAddresses {
  readonly listen: Address;
  readonly tls: Address | undefined;
}

export class WorkerListeners {
  #plain: Deno.HttpServer | undefined;
  #secure: Deno.HttpServer | undefined;
  /** Listeners that take nothing new and finish what they have. */
  readonly #closing = new Set<Promise<void>>();

  constructor(
    readonly addresses: ListenAddresses,
    readonly answer: (request: HttpRequest) => HttpResponse | Promise<HttpResponse>,
    readonly failed: (error: unknown) => void,
  ) {}

  /** Resolves when all listen. Throws when an address or the certificate cannot be used. */
  async open(certificate: Certificate | undefined): Promise<void> {
    const { listen, tls } = this.addresses;
    this.#plain = await this.#serve(listen);
    if (tls && certificate) this.#secure = await this.#serve(tls, certificate);
  }

  /** Listens with another certificate from now on. Throws when it cannot be used; then the old one stays. */
  async renew(certificate: Certificate): Promise<void> {
    const { tls } = this.addresses;
    if (!tls) return;
    const before = this.#secure;
    this.#secure = await this.#serve(tls, certificate);
    if (before) this.#shutDown(before);
  }

  #serve({ hostname, port }: Address, certificate?: Certificate): Promise<Deno.HttpServer> {
    return new Promise((resolve) => {
      const server: Deno.HttpServer = Deno.serve({
        hostname,
        port,
        reusePort: true,
        ...certificate,
        onListen: () => queueMicrotask(() => resolve(server)),
        onError: (error) => {
          this.failed(error);
          return new Response(null, { status: 500 });
        },
      }, (request, info) => {
        const answer = this.answer(new ServedRequest(request, { info, port }));
        return answer instanceof Promise ? answer.then(toResponse) : toResponse(answer);
      });
    });
  }

  #shutDown(server: Deno.HttpServer): void {
    const closing = server.shutdown().finally(() => this.#closing.delete(closing));
    this.#closing.add(closing);
  }

  /** Accepts nothing new; resolves when what is under way has finished. */
  async close(): Promise<void> {
    for (const server of [this.#plain, this.#secure]) if (server) this.#shutDown(server);
    await Promise.all(this.#closing);
  }
}
