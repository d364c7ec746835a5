// SPDX-License-Identifier: Apache-2.0
// Engines that Kubernetes knows, and how its API server is asked.

import { z } from "zod";
import { labelSchema, portSchema, probePorts } from "./endpoints.ts";

const nameSchema = z.string().min(1).max(253).regex(/^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$/, {
  error: "expected a name of Kubernetes: lower-case letters, digits, - and .",
});
/** Where a cluster's endpoints come from: one of the first three. */
export const kubernetesSourceSchema = z.strictObject({
  service: nameSchema.optional().describe("Every ready endpoint of this Service's EndpointSlices"),
  inference_pool: nameSchema.optional()
    .describe("Every ready pod that this InferencePool selects, at each of its target ports"),
  pods: labelSchema.refine((labels) => Object.keys(labels).length > 0, { error: "expected at least one label" })
    .optional()
    .describe("Every ready pod that has these labels"),
  namespace: nameSchema.optional().describe("Its namespace, if not the gateway's own"),
  port: z.union([nameSchema, portSchema]).optional()
    .describe(
      "Of a service: name of its port, or number of the engines' (its targetPort), the first one when not set; of pods: its number",
    ),
  labels: labelSchema.default({}).describe("Labels of these endpoints beside those that Kubernetes tells"),
  ...probePorts,
}).superRefine(({ service, inference_pool, pods, port }, { addIssue }) => {
  const issue = (message: string, ...path: string[]) => addIssue({ code: "custom", message, path });
  const named = [service, inference_pool, pods].filter((one) => one !== undefined);
  if (named.length !== 1) issue("expected one of service, inference_pool and pods");
  else if (inference_pool !== undefined && port !== undefined) issue("an InferencePool has ports of its own", "port");
  else if (pods !== undefined && typeof port !== "number") issue("pods need the number of their port", "port");
});

export const kubernetesSchema = z.strictObject({
  api_server: z.url({ protocol: /^https?$/ }).optional()
    .describe("URL of the API server, if not that of the pod that the gateway runs in"),
  token_file: z.string().min(1).optional().describe("File with the bearer token, read for every request"),
  ca_file: z.string().min(1).optional().describe("PEM certificates of who signed the server's"),
}).prefault({});

export type KubernetesConfig = z.infer<typeof kubernetesSchema>;
export type KubernetesSourceConfig = z.infer<typeof kubernetesSourceSchema>;
