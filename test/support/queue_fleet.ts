// SPDX-License-Identifier: Apache-2.0
// A cluster of endpoints, and workers whose kernels share its queue.

import { parseConfig } from "../../src/config/load.ts";
import { EndpointTable } from "../../src/tables/endpoint_table.ts";
import { writeQueueParameters } from "../../src/tables/queue_parameters.ts";
import { RequestTable } from "../../src/tables/request_table.ts";
import { writeTenant } from "../../src/tables/tenant_table.ts";
import { freshKernels } from "./kernel.ts";
import { seed } from "./seed.ts";

const { queue } = parseConfig({});

/** Three workers, `endpoints` in cluster 0, eight tenants of the weights 1, 2 and 3 in turn. */
export function setUp(endpoints: number, kernelSeed = seed) {
  const kernels = freshKernels({ workers: 4, requestsPerWorker: 128, endpoints: 128, tenants: 8 }, kernelSeed);
  writeQueueParameters(kernels[0], queue, 4);
  for (let tenant = 0; tenant < 8; tenant++) writeTenant(kernels[0], tenant, { weight: 1 + tenant % 3 });
  const table = new EndpointTable(kernels[0]);
  const rows = Array.from({ length: endpoints }, (_, i) => table.add(0, { hostname: "e", port: 1 + i }, 1_000, 0));
  return { kernels, table, rows, requests: kernels.slice(1).map((kernel) => new RequestTable(kernel)) };
}
