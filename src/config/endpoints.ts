// SPDX-License-Identifier: Apache-2.0
// What is said of an endpoint, wherever it is known from.

import { z } from "zod";

export const labelSchema = z.record(z.string().min(1), z.string());
export const portSchema = z.int().min(1).max(65_535);

export const hostSchema = z.string().min(1).max(253).regex(/^[^\s/]+$/, {
  error: "expected a host name or an IP address; HTTPS and a path are the cluster's: tls, base_path",
});

export const probePorts = {
  health_port: portSchema.optional().describe("Where /health is asked, if not on the port itself"),
  metrics_port: portSchema.optional().describe("Where /metrics is asked, if not on the port itself"),
};

export const endpointSchema = z.strictObject({
  address: hostSchema,
  port: portSchema,
  labels: labelSchema.default({}),
  ...probePorts,
});

export type EndpointConfig = z.infer<typeof endpointSchema>;
