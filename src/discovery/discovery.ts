// SPDX-License-Identifier: Apache-2.0
// Where endpoints come from. A source tells what it knows of clusters as it changes; whoever watches it holds the state.
//
// An endless iterable that throws says that the source fails: its last state stays, and it is watched again after a pause.
// What it yields first after that begins with a reset of each cluster that it knows.

/** One engine, or one rank of it. */
export interface EndpointId {
  readonly cluster: string;
  readonly host: string;
  readonly port: number;
  /** Data-parallel rank; 0 where there is only one. */
  readonly rank: number;
}

/** What a source says of an endpoint. */
export interface EndpointSpec {
  readonly host: string;
  readonly port: number;
  readonly rank: number;
  readonly labels: Readonly<Record<string, string>>;
  /** Ports where health and metrics are asked, if not on the port itself. */
  readonly healthPort?: number;
  readonly metricsPort?: number;
}

export type Update =
  /** These are all of the cluster's. */
  | { readonly kind: "reset"; readonly cluster: string; readonly endpoints: readonly EndpointSpec[] }
  /** New ones, and known ones whose labels or ports changed. */
  | { readonly kind: "add"; readonly cluster: string; readonly endpoints: readonly EndpointSpec[] }
  | { readonly kind: "remove"; readonly ids: readonly EndpointId[] }
  /** The source does not know the cluster any more. */
  | { readonly kind: "does_not_exist"; readonly cluster: string }
  /** It has told all that it knows at first; what comes from now on are changes. */
  | { readonly kind: "synced" };

export interface Discovery {
  /** For logs, metrics and messages: `dns engines.example:8000`. */
  readonly name: string;
  /** The one cluster that it tells; undefined for several. */
  readonly cluster?: string;
  /** Ends when the signal aborts; throws when the source fails. */
  watch(signal: AbortSignal): AsyncIterable<Update>;
}

/** Each endpoint with every one of so many ranks, by their keys. */
export function everyRank(told: readonly EndpointSpec[], ranks: number): Map<string, EndpointSpec> {
  const all = told.flatMap((spec) => Array.from({ length: ranks }, (_, rank) => ({ ...spec, rank })));
  return new Map(all.map((spec) => [endpointKey(spec), spec]));
}

/** One string for an endpoint within its cluster: HOST:PORT, and the rank where there are several. */
export function endpointKey({ host, port, rank }: Pick<EndpointId, "host" | "port" | "rank">): string {
  const address = host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`;
  return rank === 0 ? address : `${address}#${rank}`;
}
