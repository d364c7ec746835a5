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

/** An address, and which of the data-parallel ranks behind it; 0 where there is only one. */
export interface RankedAddress extends Address {
  readonly rank?: number;
}

/** HOST:PORT, and #RANK of all but the first. */
export function rankedName({ rank = 0, ...address }: RankedAddress): string {
  return rank === 0 ? formatAddress(address) : `${formatAddress(address)}#${rank}`;
}

/** The inverse of `rankedName`. */
export function parseRanked(text: string): RankedAddress | undefined {
  const [, plain, rank] = /^([^#]*)(?:#(\d{1,3}))?$/.exec(text) ?? [];
  const address = plain === undefined ? undefined : parseAddress(plain);
  return address && (rank === undefined ? address : { ...address, rank: Number(rank) });
}

/** The inverse of `parseAddress`. */
export function formatAddress({ hostname, port }: Address): string {
  return hostname.includes(":") ? `[${hostname}]:${port}` : `${hostname}:${port}`;
}

/** Whether only this machine can reach a listener on this host. */
export function isLoopback(hostname: string): boolean {
  return hostname === "localhost" || hostname === "::1" || hostname.startsWith("127.");
}
