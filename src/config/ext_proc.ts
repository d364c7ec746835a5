// SPDX-License-Identifier: Apache-2.0
// The gateway as an endpoint picker: Envoy asks it where requests go, over gRPC.

import { z } from "zod";
import { addressSchema } from "./sections.ts";

export const extProcSchema = z.strictObject({
  listen: addressSchema.describe("HOST:PORT of Envoy's external processing (ext_proc) and of gRPC's health service"),
  fallbacks: z.int().min(0).max(7).default(0)
    .describe(
      "Endpoints told beside the chosen one, for Envoy's retries: for a cluster with the policy override_host, not ORIGINAL_DST",
    ),
  streams_per_connection: z.int().min(1).max(10_000).default(256)
    .describe("Exchanges at once on a connection; Envoy opens another one for more, which may reach another worker"),
});
