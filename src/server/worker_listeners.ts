// SPDX-License-Identifier: Apache-2.0
// A worker's listeners: in cleartext by the runtime's server or the direct one, and with HTTPS whose certificate may be
// renewed. Workers share their ports, and so do the old and the new listener while one takes over from the other.

import type { Address } from "../base/address.ts";
import { DirectServer, type DirectServerParts } from "../front/direct/server.ts";
import { GrpcServer } from "../grpc/server.ts";
import { ServedRequest, toResponse } from "../front/http/served.ts";
import type { ExtProcParts } from "./ext_proc_parts.ts";
import type { Certificate, WorkerSetup } from "./protocol.ts";

export interface ListenerParts {
  /** What answers, and what direct servers need beside that. */
  readonly direct: DirectServerParts;
  /** What Envoy is answered with. */
  readonly extProc: ExtProcParts;
  /** A request failed outside of that. */
  failed(error: unknown): void;
}

interface Listening {
  shutdown(): Promise<void>;
}

export class WorkerListeners {
  readonly #plain: Listening[] = [];
  #secure: Listening | undefined;
  #closed = false;
  /** Listeners that take nothing new and finish what they have. */
  readonly #closing = new Set<Promise<void>>();

  constructor(
    readonly addresses: Pick<WorkerSetup, "listen" | "listeners" | "tls" | "extProc">,
    readonly parts: ListenerParts,
  ) {}

  /** Resolves when all listen. Throws when an address or the certificate cannot be used. */
  async open(certificate: Certificate | undefined): Promise<void> {
    const { listen, listeners, tls, extProc } = this.addresses;
    this.#plain.push(await this.#serve(listen));
    for (const { address, server } of listeners) {
      this.#plain.push(server === "direct" ? new DirectServer(address, this.parts.direct) : await this.#serve(address));
    }
    if (extProc) this.#plain.push(new GrpcServer(extProc, this.parts.extProc));
    if (tls && certificate) this.#secure = await this.#serve(tls, certificate);
  }

  /** Listens with another certificate from now on. Throws when it cannot be used; then the old one stays. */
  async renew(certificate: Certificate): Promise<void> {
    const { tls } = this.addresses;
    if (!tls || this.#closed) return;
    const before = this.#secure;
    this.#secure = await this.#serve(tls, certificate);
    if (before) this.#shutDown(before);
  }

  #serve({ hostname, port }: Address, certificate?: Certificate): Promise<Listening> {
    return new Promise((resolve) => {
      const server: Deno.HttpServer = Deno.serve({
        hostname,
        port,
        reusePort: true,
        ...certificate,
        onListen: () => queueMicrotask(() => resolve(server)),
        onError: (error) => {
          this.parts.failed(error);
          return new Response(null, { status: 500 });
        },
      }, (request, info) => {
        const answer = this.parts.direct.answer(new ServedRequest(request, { info, port }));
        return answer instanceof Promise ? answer.then(toResponse) : toResponse(answer);
      });
    });
  }

  #shutDown(server: Listening): void {
    const closing = server.shutdown().finally(() => this.#closing.delete(closing));
    this.#closing.add(closing);
  }

  /** Accepts nothing new; resolves when what is under way has finished. */
  async close(): Promise<void> {
    this.#closed = true;
    for (const server of [...this.#plain, this.#secure]) if (server) this.#shutDown(server);
    await Promise.all(this.#closing);
  }
}
