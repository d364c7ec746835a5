// SPDX-License-Identifier: Apache-2.0
// HOST:PORT, with IPv6 hosts in brackets.

export interface Address {
  hostname: string;
  port: number;
}

/** Parses HOST:PORT or [IPv6]:PORT; undefined when it is neither. Port 0 asks the system for a free one. */
export function parseAddress(text: string): Address | undefined {
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([^\s:/[\]]+)):(\d{1,5})$/.exec(text);
  if (!match) return undefined;
  const port = Number(match[3]);
  return port <= 65_535 ? { hostname: match[1] ?? match[2], port } : undefined;
}

/** The inverse of `parseAddress`. */
export function formatAddress({ hostname, port }: Address): string {
  return hostname.includes(":") ? `[${hostname}]:${port}` : `${hostname}:${port}`;
}

/** Whether only this machine can reach a listener on this host. */
export function isLoopback(hostname: string): boolean {
  return hostname === "localhost" || hostname === "::1" || hostname.startsWith("127.");
}
