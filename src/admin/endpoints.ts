// SPDX-License-Identifier: Apache-2.0
// Endpoints that come and go by the admin API: PUT and DELETE of /clusters/CLUSTER/endpoints/HOST:PORT.

import { z } from "zod";
import { parseAddress } from "../base/address.ts";
import { GatewayError } from "../base/errors.ts";
import { endpointSchema } from "../config/endpoints.ts";
import type { Config } from "../config/schema.ts";
import { type EndpointId, endpointKey, type EndpointSpec } from "../discovery/discovery.ts";

const bodySchema = endpointSchema.omit({ address: true, port: true });

/** What changing endpoints needs of the admin. */
export interface EndpointParts {
  config(): Config;
  putEndpoint(cluster: string, spec: EndpointSpec): void;
  /** False when it was not put by the admin. */
  deleteEndpoint(id: EndpointId): boolean;
  /** Names of the sources that tell an endpoint. */
  sourcesOf(cluster: string, key: string): string[];
}

function idOf({ config }: EndpointParts, cluster: string, name: string): EndpointId {
  const names = config().clusters.map((one) => one.name);
  if (!names.includes(cluster)) {
    const known = names.join(", ") || "none";
    throw new GatewayError("route_not_found", `There is no cluster ${JSON.stringify(cluster)}; there are: ${known}`);
  }
  const address = parseAddress(name);
  if (address === undefined || address.port === 0) {
    throw new GatewayError("invalid_request", `An endpoint is HOST:PORT or [IPV6]:PORT, not ${JSON.stringify(name)}`);
  }
  return { cluster, host: address.hostname, port: address.port, rank: 0 };
}

/** Adds an endpoint, or changes its labels. Throws GatewayError: route_not_found, invalid_json, invalid_request. */
export function putEndpoint(parts: EndpointParts, cluster: string, name: string, text: string): unknown {
  const { host, port, rank } = idOf(parts, cluster, name);
  let body: unknown = {};
  try {
    if (text.trim() !== "") body = JSON.parse(text);
  } catch (error) {
    throw new GatewayError("invalid_json", `The body is no JSON: ${(error as Error).message}`);
  }
  const { success, data, error } = bodySchema.safeParse(body);
  if (!success) throw new GatewayError("invalid_request", z.prettifyError(error).replaceAll("\n", " "));
  const { labels, health_port, metrics_port } = data;
  parts.putEndpoint(cluster, { host, port, rank, labels, healthPort: health_port, metricsPort: metrics_port });
  return { cluster, endpoint: endpointKey({ host, port, rank }), labels };
}

/** Takes an endpoint away that was put here. Throws GatewayError: route_not_found, invalid_request. */
export function deleteEndpoint(parts: EndpointParts, cluster: string, name: string): unknown {
  const id = idOf(parts, cluster, name);
  const key = endpointKey(id);
  if (!parts.deleteEndpoint(id)) {
    const sources = parts.sourcesOf(cluster, key);
    throw sources.length === 0
      ? new GatewayError("route_not_found", `Cluster ${JSON.stringify(cluster)} has no endpoint ${key}`)
      : new GatewayError("invalid_request", `${key} comes from ${sources.join(", ")}: it is taken away there`);
  }
  return { cluster, endpoint: key, deleted: true };
}
