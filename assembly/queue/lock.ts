// SPDX-License-Identifier: Apache-2.0
// A lock of courtesy around a cluster's queue: who holds it decides alone, so that two workers do not fill the same room
// at once. Nothing is corrupted without it (grants and counters are atomic on their own), so nobody waits for long: a
// holder that was ended or descheduled is passed by after `PATIENCE` looks, and its lock is taken over.

import { CLUSTER_LOCK } from "../memory/cluster";
import { clusterAt, enter, leave, scratch } from "../memory/plan";

/** Looks before the lock is taken from its holder: some hundred microseconds, longer than any decision. */
const PATIENCE: u32 = 200_000;

/** Enters a cluster, and locks its queue. */
export function lockCluster(cluster: u32): void {
  enter(cluster);
  const at = clusterAt(cluster) + CLUSTER_LOCK;
  for (let looks: u32 = 0; looks < PATIENCE; looks++) {
    if (atomic.load<u32>(at) == 0 && atomic.cmpxchg<u32>(at, 0, <u32>scratch) == 0) return;
  }
  atomic.store<u32>(at, <u32>scratch);
}

export function unlockCluster(cluster: u32): void {
  const at = clusterAt(cluster) + CLUSTER_LOCK;
  atomic.cmpxchg<u32>(at, <u32>scratch, 0);
  leave();
}
