// SPDX-License-Identifier: Apache-2.0
// A row for each tenant: what it was served, what of it waits, what it used of its limits.

// Tenant: u32 words, but for those that are marked.
export const TENANT_BYTES: u32 = 128;
export const T_WAITING: u32 = 0;
export const T_WORK: u32 = 4; // bytes of prefill work that wait
export const T_VIRTUAL: u32 = 8; // u64, tokens served over weight, in 1/1024
export const T_WEIGHT: u32 = 16; // f32
export const T_DRAINED: u32 = 24; // f64, bytes of work granted while somebody waited, decaying
export const T_DRAIN_TIME: u32 = 32; // f64, ms in which that happened, decaying alike
export const T_DRAIN_AT: u32 = 40; // f64, ms
export const T_CONCURRENCY: u32 = 20; // requests under way
// Use of the limits a minute, one window each of requests, input tokens, output tokens: a u64 of 8 bits of the minute,
// 28 of the last minute's use, 28 of this one's. Beside it, u32, what other gateways used in the last 60 s.
export const T_WINDOWS: u32 = 48;
export const T_REMOTE: u32 = 96;
export const T_TOTALS: u32 = 72; // i64 each, what was ever used of a window, less what was given back
export const T_PRESUMED: u32 = 108; // u32 each, what other gateways may be using of a window until they tell
export const WINDOWS: u32 = 3;
