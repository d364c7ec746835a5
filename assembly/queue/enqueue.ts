// SPDX-License-Identifier: Apache-2.0
// Into the queue and out of it. A row that is in the queue has its bit among the waiting ones; who takes the bit takes the
// row's work off the backlog, so that happens once.

import { C_CLASSES, C_WAITING, C_WORK } from "../memory/cluster";
import { clusterAt, requestAt, tenantAt, waitingBase } from "../memory/plan";
import { R_CLASS, R_CLUSTER, R_PROMPT, R_TENANT, R_WORK } from "../memory/request_row";
import { T_WAITING, T_WORK } from "../memory/tenant";

/** Puts a waiting row into the queue: `work` bytes of the backlog. */
export function enqueue(row: u32, work: u32): void {
  const at = requestAt(row);
  const tenant = tenantAt(load<u32>(at, R_TENANT));
  store<u32>(at, work, R_WORK);
  const cluster = clusterAt(load<u32>(at, R_CLUSTER));
  atomic.add<u32>(cluster + C_WAITING, 1);
  atomic.add<u32>(cluster + C_WORK, work);
  const itsClass = cluster + (<usize>load<u32>(at, R_CLASS) << 3);
  atomic.add<u32>(itsClass + C_CLASSES, 1);
  atomic.add<u32>(itsClass + C_CLASSES + 4, load<u32>(at, R_PROMPT));
  atomic.add<u32>(tenant + T_WAITING, 1);
  atomic.add<u32>(tenant + T_WORK, work);
  atomic.or<u32>(waitingBase + (<usize>(row >> 5) << 2), 1 << (row & 31));
}

/** Takes a row out of the queue; false when it was not in it. */
@inline
export function dequeue(row: u32): bool {
  const bit: u32 = 1 << (row & 31);
  if ((atomic.and<u32>(waitingBase + (<usize>(row >> 5) << 2), ~bit) & bit) == 0) return false;
  const at = requestAt(row);
  const tenant = tenantAt(load<u32>(at, R_TENANT));
  const cluster = clusterAt(load<u32>(at, R_CLUSTER));
  atomic.sub<u32>(cluster + C_WAITING, 1);
  atomic.sub<u32>(cluster + C_WORK, load<u32>(at, R_WORK));
  const itsClass = cluster + (<usize>load<u32>(at, R_CLASS) << 3);
  atomic.sub<u32>(itsClass + C_CLASSES, 1);
  atomic.sub<u32>(itsClass + C_CLASSES + 4, load<u32>(at, R_PROMPT));
  atomic.sub<u32>(tenant + T_WAITING, 1);
  atomic.sub<u32>(tenant + T_WORK, load<u32>(at, R_WORK));
  return true;
}
