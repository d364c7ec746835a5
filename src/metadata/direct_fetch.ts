// SPDX-License-Identifier: Apache-2.0
// Requests to a center. In cleartext they go to its address, whatever proxies the environment names for other traffic; over
// HTTPS the runtime knows no way around these but NO_PROXY, and the certificate has to be one for that address.

import { parseAddress } from "../base/address.ts";

/** Clients that are kept; centers whose addresses change leave old ones behind. */
const MAX_CLIENTS = 64;

/** How centers are reached by HTTPS: PEM certificates that are trusted beside the system's. */
export interface Https {
  readonly caCerts: string[];
}

export class DirectFetch {
  readonly #clients = new Map<string, Deno.HttpClient>();

  /**
   * @param https Undefined for cleartext.
   * @param token What centers want to see; undefined for nothing.
   */
  constructor(readonly https?: Https, readonly token?: string) {}

  /** As the runtime's `fetch`, to HOST:PORT. */
  fetch(address: string, target: string, init: RequestInit): Promise<Response> {
    const headers = this.token === undefined ? init.headers : {
      ...init.headers as Record<string, string>,
      authorization: `Bearer ${this.token}`,
    };
    const url = `${this.https ? "https" : "http"}://${address}${target}`;
    return fetch(url, { ...init, headers, client: this.#of(address) });
  }

  #of(address: string): Deno.HttpClient {
    let client = this.#clients.get(address);
    if (client !== undefined) return client;
    if (this.#clients.size >= MAX_CLIENTS) this.close();
    const { hostname, port } = parseAddress(address)!;
    // A proxy that is a bare connection to where the request goes.
    client = Deno.createHttpClient(
      this.https ? { caCerts: this.https.caCerts } : { proxy: { transport: "tcp", hostname, port } },
    );
    this.#clients.set(address, client);
    return client;
  }

  close(): void {
    for (const client of this.#clients.values()) client.close();
    this.#clients.clear();
  }
}
