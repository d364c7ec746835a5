// SPDX-License-Identifier: Apache-2.0
// How a cluster's engines are reached beyond their addresses: HTTPS, a path before every path, a key.

/** The same object for as long as the configuration says the same, so that connections outlive a reload. */
export interface Transport {
  /** HTTPS, verified; undefined for cleartext. */
  readonly tls: { readonly caCerts: string[]; readonly serverName: string | undefined } | undefined;
  /** Path before every path of the engine, without a slash at its end; empty for none. */
  readonly basePath: string;
  /** Value of the Authorization field that engines get in place of the client's; undefined for the client's own. */
  readonly authorization: string | undefined;
}

export const PLAIN: Transport = { tls: undefined, basePath: "", authorization: undefined };
