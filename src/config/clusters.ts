// SPDX-License-Identifier: Apache-2.0
// Clusters of engines: where their endpoints are known from, and how they are reached. In the config itself or in a file of
// their own (`clusters_file`).

import { z } from "zod";
import { clusterKvEventsSchema } from "./kv_events.ts";
import { BACKENDS } from "./models.ts";
import { endpointSchema, hostSchema, labelSchema, portSchema, probePorts } from "./endpoints.ts";
import { kubernetesSourceSchema } from "./kubernetes.ts";
import { addressSchema } from "./sections.ts";
import { xdsSourceSchema } from "./xds.ts";

const dnsSchema = z.strictObject({
  name: hostSchema.describe("Every address of this name is an endpoint"),
  port: portSchema.optional().describe("Their port; SRV records have ports of their own"),
  type: z.enum(["any", "A", "AAAA", "SRV"]).default("any").describe("any: A and AAAA"),
  interval_ms: z.int().min(50).max(86_400_000).default(5_000).describe("How often the name is looked up"),
  server: addressSchema.optional().describe("IP:PORT of a name server in place of the system's"),
  labels: labelSchema.default({}),
  ...probePorts,
}).refine(({ type, port }) => (type === "SRV") !== (port !== undefined), {
  error: "an SRV name has no port, any other needs one",
  path: ["port"],
});

export const clusterTlsSchema = z.strictObject({
  ca_file: z.string().min(1).optional().describe(
    "PEM certificates to trust beside the system's, relative to this file",
  ),
  server_name: z.string().min(1).max(253).optional().describe("Name in the engines' certificate, if not their address"),
});

export const clusterSchema = z.strictObject({
  name: z.string().min(1),
  endpoints: z.array(endpointSchema).default([]),
  dns: z.array(dnsSchema).default([]).describe("Names whose addresses are endpoints too"),
  kubernetes: z.array(kubernetesSourceSchema).default([]).describe("Services, InferencePools and pods of Kubernetes"),
  xds: z.array(xdsSourceSchema).default([]).describe(
    "Hosts of the mesh whose endpoints these are too: needs xds.server",
  ),
  tls: clusterTlsSchema.optional().describe("Engines are reached by HTTPS, their certificates verified"),
  base_path: z.string().regex(/^(\/[\x21-\x7e]*[^/])?$/, {
    error: "expected a path like /openai, without a slash at its end",
  })
    .default("").describe("Path before every path of the engines"),
  api_key_file: z.string().min(1).optional()
    .describe("File with the key that engines want, relative to this file; the client's own is not handed on then"),
  api_key_env: z.string().min(1).optional().describe("Environment variable with that key"),
  forward_credentials: z.boolean().optional().describe(
    "Hand the client's Authorization and x-api-key on to engines that have no key here, if the gateway has no tenants' keys; yes with compat: go",
  ),
  kv_events: clusterKvEventsSchema.optional().describe(
    "Where its engines publish what their caches hold; asked for when not set, false for not at all",
  ),
  discover_models: z.boolean().default(false)
    .describe("Serve what the engines list in /v1/models, also without a rule in model_mapping_rule"),
  backend: z.enum(BACKENDS).optional()
    .describe("Kind of its engines for models that no rule names; by what they say of themselves when not set"),
  kv_capacity_tokens: z.int().min(1).max(1_000_000_000).default(524_288)
    .describe("Tokens that the KV cache of one engine holds, until its metrics tell"),
  max_running_requests: z.int().min(1).max(1_000_000).optional()
    .describe("Requests that one engine runs at once; learned from its metrics when not set"),
  data_parallel_ranks: z.int().min(1).max(256).default(1).describe(
    "Ranks behind each address: each is chosen like an endpoint of its own, by the field X-data-parallel-rank (vLLM and SGLang with --data-parallel-size, or --dp, and one port)",
  ),
  parallel_prefills: z.int().min(1).max(1_024).default(1).describe(
    "Prompts that one engine computes at once (vLLM with --long-prefill-token-threshold): short ones go beside a long one",
  ),
});

/** The shape of a `clusters_file`. */
export const clustersFileSchema = z.strictObject({ clusters: z.array(clusterSchema) });

export type ClusterConfig = z.infer<typeof clusterSchema> & {
  /** It stands in the clusters_file, which tells its endpoints as they change. */
  from_file?: boolean;
};
export type DnsConfig = z.infer<typeof dnsSchema>;
