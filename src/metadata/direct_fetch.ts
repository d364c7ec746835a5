// SPDX-License-Identifier: Apache-2.0
// Requests to a center that go to its address, whatever proxies the environment names for other traffic.

import { parseAddress } from "../base/address.ts";

/** Clients that are kept; centers whose addresses change leave old ones behind. */
const MAX_CLIENTS = 64;

export class DirectFetch {
  readonly #clients = new Map<string, Deno.HttpClient>();

  /** As the runtime's `fetch`, to HOST:PORT. */
  fetch(address: string, target: string, init: RequestInit): Promise<Response> {
    return fetch(`http://${address}${target}`, { ...init, client: this.#of(address) });
  }

  #of(address: string): Deno.HttpClient {
    let client = this.#clients.get(address);
    if (client !== undefined) return client;
    if (this.#clients.size >= MAX_CLIENTS) this.close();
    const { hostname, port } = parseAddress(address)!;
    // A proxy that is a bare connection to where the request goes.
    client = Deno.createHttpClient({ proxy: { transport: "tcp", hostname, port } });
    this.#clients.set(address, client);
    return client;
  }

  close(): void {
    for (const client of this.#clients.values()) client.close();
    this.#clients.clear();
  }
}
