// SPDX-License-Identifier: Apache-2.0
// Endpoints of a host in a mesh, as its control plane tells them. Istio names a host's clusters
// `outbound|PORT|SUBSET|HOST`: that without a subset has all endpoints, those with one the endpoints that a subset of its
// DestinationRule selects, whose labels are told in no other way.

import type { XdsSourceConfig } from "../../config/xds.ts";
import { type Discovery, endpointKey, type EndpointSpec, type Update } from "../discovery.ts";
import { decodeCluster, decodeEndpoints, type LoadAssignment, ResourceType, type XdsCluster } from "./messages.ts";
import { EVERYTHING, type XdsSession, type XdsSessions } from "./session.ts";

/** UNHEALTHY, DRAINING and TIMEOUT of core.v3.HealthStatus: nothing new goes there. */
const UNUSABLE = new Set([2, 3, 4]);

interface Named {
  readonly port: number;
  readonly subset: string;
  readonly host: string;
}

/** What a name of Istio's says; undefined for another one. */
export function parseName(name: string): Named | undefined {
  const [direction, port, subset, host] = name.split("|");
  return direction === "outbound" && host !== undefined ? { port: Number(port), subset, host } : undefined;
}

export class XdsDiscovery implements Discovery {
  readonly name: string;
  /** Resources that were decoded, by their bytes: most stay as they are when another one changes. */
  readonly #clusters = new WeakMap<Uint8Array, XdsCluster>();
  readonly #assignments = new WeakMap<Uint8Array, LoadAssignment>();

  constructor(readonly cluster: string, readonly config: XdsSourceConfig, readonly sessions: XdsSessions) {
    const { host, port } = config;
    this.name = `xds ${host}${port === undefined ? "" : `:${port}`}`;
  }

  async *watch(signal: AbortSignal): AsyncGenerator<Update> {
    const { session, release } = this.sessions.acquire();
    try {
      session.subscribe(ResourceType.cluster, EVERYTHING);
      let known: string | undefined;
      while (!signal.aborted) {
        const changed = session.changed(signal);
        const endpoints = this.#endpoints(session);
        const told = endpoints && JSON.stringify(endpoints);
        if (endpoints !== undefined && told !== known) {
          yield { kind: "reset", cluster: this.cluster, endpoints };
          if (known === undefined) yield { kind: "synced" };
          known = told;
        }
        await changed;
      }
    } finally {
      release();
    }
  }

  // Undefined while not all of it has been told. Throws Error where the port is not clear.
  #endpoints(session: XdsSession): EndpointSpec[] | undefined {
    const all = session.all(ResourceType.cluster);
    if (all === undefined) return undefined;
    const { host, port } = this.config;
    const found = [...all].flatMap(([name, bytes]) => {
      const named = parseName(name);
      if (named?.host !== host || (port !== undefined && named.port !== port)) return [];
      return [{ ...named, cluster: cached(this.#clusters, bytes, decodeCluster) }];
    });
    const ports = new Set(found.map((one) => one.port));
    if (ports.size > 1) throw new Error(`${host} has the ports ${[...ports].join(", ")}: which one is not said`);
    const endpoints = new Map<string, EndpointSpec & { labels: Record<string, string> }>();
    const { subset: wanted = "", subsets } = this.config;
    for (const { subset, cluster } of found) {
      if (subset !== wanted) continue;
      const assignment = this.#assignment(session, cluster);
      if (assignment === undefined) return undefined;
      for (const spec of specsOf(assignment ?? {}, this.config)) endpoints.set(endpointKey(spec), spec);
    }
    for (const { subset, cluster } of found) {
      if (subset === "") continue;
      // What a subset selects is a matter of labels alone.
      const assignment = this.#assignment(session, cluster);
      if (assignment === undefined) return undefined;
      for (const spec of specsOf(assignment ?? {}, this.config)) {
        const one = endpoints.get(endpointKey(spec));
        if (one) Object.assign(one.labels, subsets[subset] ?? { [`subset/${subset}`]: "yes" });
      }
    }
    return [...endpoints.values()];
  }

  // Undefined while it has not been told, null when there is none.
  #assignment(session: XdsSession, cluster: XdsCluster): LoadAssignment | null | undefined {
    if (cluster.load_assignment) return cluster.load_assignment;
    const name = cluster.eds_cluster_config?.service_name || cluster.name;
    session.subscribe(ResourceType.endpoints, [name]);
    const bytes = session.get(ResourceType.endpoints, name);
    return bytes && cached(this.#assignments, bytes, decodeEndpoints);
  }
}

function cached<T>(known: WeakMap<Uint8Array, T>, bytes: Uint8Array, decode: (bytes: Uint8Array) => T): T {
  const before = known.get(bytes);
  if (before !== undefined) return before;
  const decoded = decode(bytes);
  known.set(bytes, decoded);
  return decoded;
}

function specsOf({ endpoints = [] }: LoadAssignment, config: XdsSourceConfig) {
  return endpoints.flatMap(({ locality, lb_endpoints = [] }) =>
    lb_endpoints.flatMap(({ endpoint, health_status }) => {
      const { address, port_value: port } = endpoint?.address?.socket_address ?? {};
      if (address === undefined || port === undefined || UNUSABLE.has(health_status ?? 0)) return [];
      const labels: Record<string, string> = {
        ...(locality?.region && { "topology.kubernetes.io/region": locality.region }),
        ...(locality?.zone && { "topology.kubernetes.io/zone": locality.zone }),
        ...config.labels,
      };
      return [{
        host: address,
        port,
        rank: 0,
        labels,
        healthPort: config.health_port,
        metricsPort: config.metrics_port,
      }];
    })
  );
}
