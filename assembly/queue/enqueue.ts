// SPDX-License-Identifier: Apache-2.0
// Into the queue and out of it. A row that is in the queue has its bit among the waiting ones; who takes the bit takes the
// row's work off the backlog, so that happens once.

import { CLASS_BYTES, CLASS_REQUESTS, CLUSTER_WAITING, CLUSTER_WORK } from "../memory/cluster";
import { classQueueAt, clusterAt, requestRow, tenantAt, waitingBase } from "../memory/plan";
import { TENANT_WAITING, TENANT_WORK } from "../memory/tenant";

/** Puts a waiting row into the queue: `work` bytes of the backlog. */
export function enqueue(row: u32, work: u32): void {
  const request = requestRow(row);
  const tenant = tenantAt(request.tenant);
  request.work = work;
  const cluster = clusterAt(request.cluster);
  const itsClass = classQueueAt(request.cluster, request.priorityClass);
  atomic.add<u32>(cluster + CLUSTER_WAITING, 1);
  atomic.add<u32>(cluster + CLUSTER_WORK, work);
  atomic.add<u32>(itsClass + CLASS_REQUESTS, 1);
  atomic.add<u32>(itsClass + CLASS_BYTES, request.prompt);
  atomic.add<u32>(tenant + TENANT_WAITING, 1);
  atomic.add<u32>(tenant + TENANT_WORK, work);
  atomic.or<u32>(waitingBase + (<usize>(row >> 5) << 2), 1 << (row & 31));
}

/** Takes a row out of the queue; false when it was not in it. */
@inline
export function dequeue(row: u32): bool {
  const bit: u32 = 1 << (row & 31);
  if ((atomic.and<u32>(waitingBase + (<usize>(row >> 5) << 2), ~bit) & bit) == 0) return false;
  const request = requestRow(row);
  const tenant = tenantAt(request.tenant);
  const cluster = clusterAt(request.cluster);
  const itsClass = classQueueAt(request.cluster, request.priorityClass);
  atomic.sub<u32>(cluster + CLUSTER_WAITING, 1);
  atomic.sub<u32>(cluster + CLUSTER_WORK, request.work);
  atomic.sub<u32>(itsClass + CLASS_REQUESTS, 1);
  atomic.sub<u32>(itsClass + CLASS_BYTES, request.prompt);
  atomic.sub<u32>(tenant + TENANT_WAITING, 1);
  atomic.sub<u32>(tenant + TENANT_WORK, request.work);
  return true;
}
