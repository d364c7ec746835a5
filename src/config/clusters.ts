// SPDX-License-Identifier: Apache-2.0
// Clusters of endpoints, in the config itself or in a file of their own (`clusters_file`).

import { z } from "zod";

const labelSchema = z.record(z.string().min(1), z.string());

export const endpointSchema = z.strictObject({
  address: z.string().min(1).max(253).regex(/^[^\s/]+$/, { error: "expected a host name or an IP address" }),
  port: z.int().min(1).max(65_535),
  labels: labelSchema.default({}),
  health_port: z.int().min(1).max(65_535).optional().describe("Where /health is asked, if not on the port itself"),
  metrics_port: z.int().min(1).max(65_535).optional().describe("Where /metrics is asked, if not on the port itself"),
});

export const clusterSchema = z.strictObject({
  name: z.string().min(1),
  endpoints: z.array(endpointSchema).default([]),
  kv_capacity_tokens: z.int().min(1).max(1_000_000_000).default(524_288)
    .describe("Tokens that the KV cache of one engine holds, until its metrics tell"),
});

/** The shape of a `clusters_file`. */
export const clustersFileSchema = z.strictObject({ clusters: z.array(clusterSchema) });

export type EndpointConfig = z.infer<typeof endpointSchema>;
export type ClusterConfig = z.infer<typeof clusterSchema>;
