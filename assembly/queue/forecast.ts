// SPDX-License-Identifier: Apache-2.0
// How long what waits in front of a cluster takes: for a request, whether waiting leads to its first token in time; for
// one that is refused, when to come back.

import { CLASSES, CLUSTER_DEMAND, ClusterRow } from "../memory/cluster";
import { SERVING, stampOf } from "../memory/endpoint";
import {
  clusterAt,
  clusterRow,
  enter,
  leave,
  requestRow,
  requestsPerWorker,
  tenantRow,
  waitingBase,
  workers,
} from "../memory/plan";
import { RequestRow } from "../memory/request_row";
import { remoteShare } from "../score/late";
import { serviceRate } from "./fair_share";
import { minCost } from "./order";
import { fleetRate, survey } from "./survey";

/** Ms over which the demand of a class is averaged. */
const DEMAND_MS: f64 = 10_000;
/** Of the fleet's rate, what is left to a class at least, however much the classes before it ask for. */
const MIN_LEFT: f64 = 0.05;

/** A request of this class was let in with so many bytes to prefill. */
export function observeDemand(cluster: u32, itsClass: u32, work: u32, now: f64): void {
  const at = clusterAt(cluster);
  const row = changetype<ClusterRow>(at);
  const passed = max<f64>(0, now - row.demandAt);
  const kept = DEMAND_MS / (DEMAND_MS + passed);
  for (let i: u32 = 0; i < CLASSES; i++) {
    const demand = at + (<usize>i << 3);
    const more = i == itsClass ? <f64>work / DEMAND_MS : 0;
    store<f64>(demand, load<f64>(demand, CLUSTER_DEMAND) * kept + more, CLUSTER_DEMAND);
  }
  row.demandAt = now;
}

// Share of the fleet's rate that is left when the classes before this one took what they asked for lately.
function leftTo(itsClass: u32, cluster: u32, now: f64): f64 {
  const at = clusterAt(cluster);
  const row = changetype<ClusterRow>(at);
  let before: f64 = 0;
  for (let i: u32 = 0; i < itsClass; i++) before += load<f64>(at + (<usize>i << 3), CLUSTER_DEMAND);
  const kept = DEMAND_MS / (DEMAND_MS + max<f64>(0, now - row.demandAt));
  return max(MIN_LEFT, 1 - kept * before / max<f64>(1e-9, fleetRate));
}

/**
 * Whether a request has its first token too late by this forecast: after those that go before it and what its best
 * endpoint is at. One that `arrives` is let wait only if there is time for those of better classes too that will come
 * meanwhile, by what came lately; one that waits already is given up when it is too late even without them.
 */
export function tooLate(request: RequestRow, arrives: bool, now: f64): bool {
  const deadline = request.deadline;
  if (deadline <= 0) return false;
  const cluster = request.cluster;
  const share = remoteShare(cluster);
  survey(cluster, SERVING, share, now);
  const band = request.band;
  const work = request.work;
  const words = (workers * requestsPerWorker + 31) >> 5;
  let before: f64 = 0;
  for (let word: u32 = 0; word < words; word++) {
    for (let bits = atomic.load<u32>(waitingBase + (<usize>word << 2)); bits != 0; bits &= bits - 1) {
      const other = requestRow((word << 5) + ctz<u32>(bits));
      if (other == request || other.cluster != cluster || other.band > band) continue;
      const its = other.work;
      const due = other.deadline;
      if (other.band < band || its <= work || (due > 0 && due <= deadline)) before += its;
    }
  }
  const left = arrives ? leftTo(request.priorityClass, cluster, now) : 1;
  const waits = before / max<f64>(1e-9, fleetRate * left);
  return now + waits + <f64>minCost(request, <f32>left, share, stampOf(now)) > deadline;
}

/** Ms that all that waits in a cluster takes its endpoints. */
export function clusterBacklogMs(cluster: u32): f64 {
  enter(cluster);
  survey(cluster, SERVING, remoteShare(cluster), clusterRow(cluster).busyAt);
  leave();
  return <f64>clusterRow(cluster).work / max<f64>(1e-9, fleetRate);
}

/** Ms that what a tenant has waiting takes at the rate at which it was served lately. */
export function backlogMs(cluster: u32, tenant: u32): f64 {
  enter(cluster);
  survey(cluster, SERVING, remoteShare(cluster), clusterRow(cluster).busyAt);
  leave();
  return <f64>tenantRow(tenant).work / serviceRate(tenantRow(tenant), fleetRate);
}
