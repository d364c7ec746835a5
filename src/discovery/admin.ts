// SPDX-License-Identifier: Apache-2.0
// Endpoints that an operator or a script names through the admin API. They last until they are taken away or the process
// ends.

import { type Discovery, type EndpointId, endpointKey, type EndpointSpec, type Update } from "./discovery.ts";
import { Updates } from "./updates.ts";

export class AdminDiscovery implements Discovery {
  readonly name = "admin";
  readonly #endpoints = new Map<string, { cluster: string; spec: EndpointSpec }>();
  #updates = new Updates();

  /** Adds an endpoint, or changes its labels. */
  put(cluster: string, spec: EndpointSpec): void {
    this.#endpoints.set(keyOf(cluster, spec), { cluster, spec });
    this.#updates.push({ kind: "add", cluster, endpoints: [spec] });
  }

  /** Takes an endpoint away; false when it was not put here. */
  delete(id: EndpointId): boolean {
    if (!this.#endpoints.delete(keyOf(id.cluster, id))) return false;
    this.#updates.push({ kind: "remove", ids: [id] });
    return true;
  }

  watch(signal: AbortSignal): AsyncIterable<Update> {
    this.#updates = new Updates();
    const clusters = new Map<string, EndpointSpec[]>();
    for (const { cluster, spec } of this.#endpoints.values()) {
      clusters.set(cluster, [...clusters.get(cluster) ?? [], spec]);
    }
    for (const [cluster, endpoints] of clusters) this.#updates.push({ kind: "reset", cluster, endpoints });
    this.#updates.push({ kind: "synced" });
    return this.#updates.read(signal);
  }
}

function keyOf(cluster: string, id: Pick<EndpointId, "host" | "port" | "rank">): string {
  return `${cluster}\n${endpointKey(id)}`;
}
