// SPDX-License-Identifier: Apache-2.0
// A lock of courtesy around a cluster's queue: who holds it decides alone, so that two workers do not fill the same room
// at once. Nothing is corrupted without it (grants and counters are atomic on their own), so nobody waits for long.
//
// The word is 0, or the scratch of the worker that holds it, which is even; 1 is added while others sleep on it. Who comes
// looks for a while, as long as a decision takes, and then sleeps, so that a holder that has lost its processor to it gets
// that back. One that was ended never wakes anybody: after some naps its lock is taken over.

import { CLUSTER_CONTENDED, CLUSTER_LOCK } from "../memory/cluster";
import { clusterAt, enter, leave, scratch } from "../memory/plan";

/** Looks before the first nap: some ten microseconds. */
const LOOKS: u32 = 4_000;
const NAP_NS: i64 = 500_000;
/** Naps without a word before the lock is taken from one holder. */
const PATIENCE: u32 = 8;
/** `atomic.wait` ended by time. */
const TIMED_OUT: i32 = 2;

/** Enters a cluster, and locks its queue. */
export function lockCluster(cluster: u32): void {
  enter(cluster);
  const at = clusterAt(cluster) + CLUSTER_LOCK;
  if (atomic.cmpxchg<u32>(at, 0, <u32>scratch) == 0) return;
  atomic.add<u32>(clusterAt(cluster) + CLUSTER_CONTENDED, 1);
  for (let looks: u32 = 0; looks < LOOKS; looks++) {
    if (atomic.load<u32>(at) == 0 && atomic.cmpxchg<u32>(at, 0, <u32>scratch) == 0) return;
  }
  sleepOn(at);
}

function sleepOn(at: usize): void {
  let holder: u32 = 0;
  for (let naps: u32 = 0;;) {
    const seen = atomic.load<u32>(at);
    if (seen == 0) {
      // There may be others asleep: who unlocks wakes the next one.
      if (atomic.cmpxchg<u32>(at, 0, <u32>scratch | 1) == 0) return;
      continue;
    }
    if ((seen & 1) == 0 && atomic.cmpxchg<u32>(at, seen, seen | 1) != seen) continue;
    // Another holder than before: that one is given the same time.
    if ((seen | 1) != holder) naps = 0;
    holder = seen | 1;
    if (naps == PATIENCE && atomic.cmpxchg<u32>(at, holder, <u32>scratch | 1) == holder) return;
    if (atomic.wait<u32>(at, holder, NAP_NS) == TIMED_OUT) naps++;
  }
}

export function unlockCluster(cluster: u32): void {
  const at = clusterAt(cluster) + CLUSTER_LOCK;
  if (atomic.cmpxchg<u32>(at, <u32>scratch, 0) != <u32>scratch) {
    // Somebody sleeps, or has taken it over.
    if (atomic.cmpxchg<u32>(at, <u32>scratch | 1, 0) == (<u32>scratch | 1)) atomic.notify(at, 1);
  }
  leave();
}
