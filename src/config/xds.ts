// SPDX-License-Identifier: Apache-2.0
// A control plane that speaks xDS, as Istio's does, and what of it is a cluster.

import { z } from "zod";
import { hostSchema, labelSchema, portSchema, probePorts } from "./endpoints.ts";
import { addressSchema } from "./sections.ts";

/** Where a cluster's endpoints come from: those of a host in the mesh. */
export const xdsSourceSchema = z.strictObject({
  host: hostSchema.describe("Host of a Service or ServiceEntry as the control plane names it"),
  port: portSchema.optional().describe("Its port there; not needed where it has only one"),
  subset: z.string().min(1).optional().describe("Only the endpoints of this subset of its DestinationRule"),
  subsets: z.record(z.string().min(1), labelSchema).default({})
    .describe("Labels of the endpoints in each subset; without, subset/NAME: yes"),
  labels: labelSchema.default({}).describe("Labels of all of them"),
  ...probePorts,
});

export const xdsSchema = z.strictObject({
  server: addressSchema.describe("HOST:PORT of the aggregated discovery service, as istiod.istio-system.svc:15010"),
  ca_file: z.string().min(1).optional().describe(
    "PEM certificates of who signed the server's: it is reached by TLS then",
  ),
  server_name: z.string().min(1).max(253).optional().describe("Name in its certificate, if not its host"),
  token_file: z.string().min(1).optional().describe("File with a bearer token, read for every connection"),
  node_id: z.string().min(1).optional()
    .describe("Who the gateway says it is; without, router~IP~POD.NAMESPACE~NAMESPACE.svc.cluster.local"),
  labels: labelSchema.default({}).describe("Labels of the gateway's workload, by which a Gateway selects it"),
  configuration: z.boolean().default(false)
    .describe("Models of the Go gateway's configuration in the routes of this workload are served too"),
});

export type XdsConfig = z.infer<typeof xdsSchema>;
export type XdsSourceConfig = z.infer<typeof xdsSourceSchema>;
