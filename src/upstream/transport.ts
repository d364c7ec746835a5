// SPDX-License-Identifier: Apache-2.0
// How a cluster's engines are reached beyond their addresses: HTTPS, a path before every path, a key.

/** The same object for as long as the configuration says the same, so that connections outlive a reload. */
export interface Transport {
  /** HTTPS, verified; undefined for cleartext. */
  readonly tls: { readonly caCerts: string[]; readonly serverName: string | undefined } | undefined;
  /** Path before every path of the engine, without a slash at its end; empty for none. */
  readonly basePath: string;
  /** Value of the Authorization field that engines get; undefined for none of the gateway's. */
  readonly authorization: string | undefined;
  /** Whether they get the client's, where they get none of the gateway's. */
  readonly forwardCredentials: boolean;
  /** Data-parallel ranks behind each address; 1 where requests name none. */
  readonly ranks: number;
}

export const PLAIN: Transport = {
  tls: undefined,
  basePath: "",
  authorization: undefined,
  forwardCredentials: false,
  ranks: 1,
};
