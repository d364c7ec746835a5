// SPDX-License-Identifier: Apache-2.0
// Endpoints that the configuration itself lists. Each configuration that comes into force is set anew.

import type { ClusterConfig } from "../config/clusters.ts";
import type { Discovery, EndpointSpec, Update } from "./discovery.ts";
import { Updates } from "./updates.ts";

export class StaticDiscovery implements Discovery {
  readonly name = "configuration";
  #clusters = new Map<string, readonly EndpointSpec[]>();
  #updates = new Updates();

  /** These are the clusters from now on. */
  set(clusters: readonly ClusterConfig[]): void {
    const next = new Map(clusters.map((cluster) => [cluster.name, specsOf(cluster)]));
    this.#updates.push(...changes(this.#clusters, next));
    this.#clusters = next;
  }

  watch(signal: AbortSignal): AsyncIterable<Update> {
    this.#updates = new Updates();
    this.#updates.push(...changes(new Map(), this.#clusters), { kind: "synced" });
    return this.#updates.read(signal);
  }
}

/** The endpoints that a cluster of the configuration lists. */
export function specsOf({ endpoints }: ClusterConfig): readonly EndpointSpec[] {
  return endpoints.map(({ address, port, labels, health_port, metrics_port }) => ({
    host: address,
    port,
    rank: 0,
    labels,
    healthPort: health_port,
    metricsPort: metrics_port,
  }));
}

/** What brings a watcher from one state to another. */
export function changes(
  before: ReadonlyMap<string, readonly EndpointSpec[]>,
  after: ReadonlyMap<string, readonly EndpointSpec[]>,
): Update[] {
  const updates: Update[] = [];
  for (const [cluster, endpoints] of after) {
    if (JSON.stringify(before.get(cluster)) === JSON.stringify(endpoints)) continue;
    updates.push({ kind: "reset", cluster, endpoints });
  }
  for (const cluster of before.keys()) if (!after.has(cluster)) updates.push({ kind: "does_not_exist", cluster });
  return updates;
}
