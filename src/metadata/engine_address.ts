// SPDX-License-Identifier: Apache-2.0
// What an engine is to the metadata center: a host with a port.

import { formatAddress } from "../base/address.ts";

/** One engine: a host, which is an IPv4 or IPv6 address or a name, and a port where several engines share it. */
export interface EngineAddress {
  host: string;
  /** IPv4 address of a host that is none, for callers that know nothing else. */
  ip?: string;
  port?: number;
}

/** One string for an engine. */
export function engineKey({ host, port }: Pick<EngineAddress, "host" | "port">): string {
  return port === undefined ? host : formatAddress({ hostname: host, port });
}

/** What an engine is called by those who know engines by their IPv4 address alone. */
export function plainKey({ host, ip }: EngineAddress): string {
  return ip ?? host;
}
