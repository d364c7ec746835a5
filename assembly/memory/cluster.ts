// SPDX-License-Identifier: Apache-2.0
// A row for each cluster: its endpoints' groups, its queue, how busy it is. The fields are followed by two arrays.

@unmanaged
export class ClusterRow {
  firstGroup: u32; // group number + 1, 0 for an empty cluster
  turn: u32; // round robin counter
  groups: u32;
  lock: u32; // 0, or the scratch of the worker that decides, and 1 while others sleep until it has
  waiting: u32; // requests that wait for an endpoint
  work: u32; // their prefill work in bytes
  busy: f64; // share of the endpoints with prefill work, moving mean
  busyNow: f64; // the share when it was last looked at
  busyAt: f64; // ms
  hits: f64; // share of prompt bytes that were held, moving mean
  demandAt: f64; // ms
  saturation: f32; // 1 and more when the cluster has no room for what may wait
  lastFlow: u32; // 1 + tenant · 4,096 + band of the last grant
  sharedAt: f64; // ms, when grants last went to two flows in turn
  contended: u32; // how often the lock was not free at once
}

export const CLUSTER_FIRST_GROUP: u32 = offsetof<ClusterRow>("firstGroup");
export const CLUSTER_TURN: u32 = offsetof<ClusterRow>("turn");
export const CLUSTER_GROUPS: u32 = offsetof<ClusterRow>("groups");
export const CLUSTER_LOCK: u32 = offsetof<ClusterRow>("lock");
export const CLUSTER_WAITING: u32 = offsetof<ClusterRow>("waiting");
export const CLUSTER_WORK: u32 = offsetof<ClusterRow>("work");
export const CLUSTER_BUSY: u32 = offsetof<ClusterRow>("busy");
export const CLUSTER_BUSY_NOW: u32 = offsetof<ClusterRow>("busyNow");
export const CLUSTER_BUSY_AT: u32 = offsetof<ClusterRow>("busyAt");
export const CLUSTER_HITS: u32 = offsetof<ClusterRow>("hits");
export const CLUSTER_DEMAND_AT: u32 = offsetof<ClusterRow>("demandAt");
export const CLUSTER_SATURATION: u32 = offsetof<ClusterRow>("saturation");
export const CLUSTER_LAST_FLOW: u32 = offsetof<ClusterRow>("lastFlow");
export const CLUSTER_SHARED_AT: u32 = offsetof<ClusterRow>("sharedAt");
export const CLUSTER_CONTENDED: u32 = offsetof<ClusterRow>("contended");

/** CLASSES of these: what waits in each class of priority. */
@unmanaged
export class ClassQueue {
  requests: u32;
  bytes: u32; // of their prompts
}

export const CLASSES: u32 = 3;
export const CLASS_REQUESTS: u32 = offsetof<ClassQueue>("requests");
export const CLASS_BYTES: u32 = offsetof<ClassQueue>("bytes");
export const CLASS_QUEUE_BYTES: u32 = offsetof<ClassQueue>();
export const CLUSTER_CLASSES: u32 = (offsetof<ClusterRow>() + 7) & ~7;
/** CLASSES f64: prefill bytes a ms that the classes were let in with lately. */
export const CLUSTER_DEMAND: u32 = CLUSTER_CLASSES + CLASSES * CLASS_QUEUE_BYTES;
export const CLUSTER_BYTES: u32 = 192;
