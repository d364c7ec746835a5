// SPDX-License-Identifier: Apache-2.0
// Rows that change hands: a cluster, a tenant or a model that is gone leaves its row as a fresh memory has it. Called by the
// control plane; each returns 1, or 0 without a change while the row is in use.

import { CLASS_REQUESTS, CLASSES, CLUSTER_BYTES } from "./memory/cluster";
import {
  averageBase,
  classQueueAt,
  clusterAt,
  clusterRow,
  firstGroupOf,
  predictors,
  requestAt,
  requestsPerWorker,
  ringOffset,
  tenantAt,
  tenantRow,
  workers,
} from "./memory/plan";
import { AVERAGES } from "./memory/predictor_row";
import { PHASE_FREE, REQUEST_CLUSTER, REQUEST_MODEL, REQUEST_PHASE, REQUEST_TENANT } from "./memory/request_row";
import { RING_WALKING } from "./memory/rings";
import { TENANT_BYTES } from "./memory/tenant";
import { predictorClear } from "./predictor";

// Whether a request is open of which the u32 at `field` of its row is `value`.
function isOpen(field: u32, value: u32): bool {
  for (let row: u32 = 0; row < workers * requestsPerWorker; row++) {
    const at = requestAt(row);
    if (atomic.load<u32>(at, REQUEST_PHASE) != PHASE_FREE && load<u32>(at + field) == value) return true;
  }
  return false;
}

/** In use: a request of it is open or waits, it has groups, or somebody reads them. EndpointTable.removeCluster goes first. */
export function clusterReset(cluster: u32): u32 {
  const row = clusterRow(cluster);
  if (firstGroupOf(cluster) != 0 || row.waiting != 0 || row.work != 0) return 0;
  for (let i: u32 = 0; i < CLASSES; i++) {
    if (atomic.load<u32>(classQueueAt(cluster, i), CLASS_REQUESTS) != 0) return 0;
  }
  for (let worker: u32 = 0; worker < workers; worker++) {
    if (atomic.load<u32>(ringOffset(worker), RING_WALKING) == cluster + 1) return 0;
  }
  if (isOpen(REQUEST_CLUSTER, cluster)) return 0;
  memory.fill(clusterAt(cluster), 0, CLUSTER_BYTES);
  return 1;
}

/**
 * In use: a request of it is open, admitted or waits. The caller guarantees that all of its reservations are settled. Its
 * weight is 0 afterwards too.
 */
export function tenantReset(tenant: u32): u32 {
  const row = tenantRow(tenant);
  if (row.waiting != 0 || row.work != 0 || row.concurrency != 0 || isOpen(REQUEST_TENANT, tenant)) return 0;
  memory.fill(tenantAt(tenant), 0, TENANT_BYTES);
  return 1;
}

/**
 * In use: a request of it is open. Its prefill model, its decode step and its averages are 0 afterwards; the counters by
 * which readers go on. Samples of the old model that wait in the rings are the caller's to take first.
 */
export function modelReset(model: u32): u32 {
  if (isOpen(REQUEST_MODEL, model)) return 0;
  predictorClear(model);
  predictorClear(predictors / 2 + model);
  memory.fill(averageBase + <usize>model * AVERAGES * 4, 0, AVERAGES * 4);
  return 1;
}
