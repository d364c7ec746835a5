// SPDX-License-Identifier: Apache-2.0
// A row for each cluster: its endpoints' blocks, its queue, how busy it is.

// Cluster: u32 words, but for the f64 that are marked.
export const CLUSTER_BYTES: u32 = 128;
export const C_FIRST_BLOCK: u32 = 0; // block number + 1, 0 for an empty cluster
export const C_TURN: u32 = 4; // round robin counter
export const C_BLOCKS: u32 = 8;
export const C_LOCK: u32 = 12; // 0, or the block + 1 of the worker that decides
export const C_WAITING: u32 = 16; // requests that wait for an endpoint
export const C_WORK: u32 = 20; // their prefill work in bytes
export const C_BUSY: u32 = 24; // f64, share of the endpoints with prefill work, moving mean
export const C_BUSY_NOW: u32 = 32; // f64, the share when it was last looked at
export const C_BUSY_AT: u32 = 40; // f64, ms
export const C_HITS: u32 = 48; // f64, share of prompt bytes that were held, moving mean
export const C_SATURATION: u32 = 64; // f32, 1 and more when the cluster has no room for what may wait
export const C_CLASSES: u32 = 72; // CLASSES pairs of u32: requests that wait in each class of priority, their bytes
export const C_DEMAND: u32 = 96; // CLASSES f64: prefill bytes a ms that the classes were let in with lately
export const C_DEMAND_AT: u32 = 56; // f64, ms
export const CLASSES: u32 = 3;
