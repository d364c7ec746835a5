// SPDX-License-Identifier: Apache-2.0
// What waits in a cluster's queue, of all workers.

import type { AttachedKernel } from "../../wasm/kernel.ts";

/** Requests that wait for an endpoint of a cluster. */
export function waitingIn({ buffer, exports: k }: AttachedKernel, clusterRow: number): number {
  return Atomics.load(new Int32Array(buffer), (k.clusterOffset(clusterRow) + k.CLUSTER_WAITING) >>> 2);
}

/** Decisions that found its lock taken by another worker's, since the cluster has its row. */
export function lockWaitsIn({ buffer, exports: k }: AttachedKernel, clusterRow: number): number {
  return Atomics.load(new Int32Array(buffer), (k.clusterOffset(clusterRow) + k.CLUSTER_CONTENDED) >>> 2) >>> 0;
}
