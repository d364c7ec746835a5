// SPDX-License-Identifier: Apache-2.0
// A row for each tenant: what it was served, what of it waits, what it used of its limits. The fields are followed by four
// arrays of WINDOWS: one window a minute each of requests, input tokens, output tokens.

@unmanaged
export class TenantRow {
  waiting: u32; // requests
  work: u32; // bytes of prefill work that wait
  virtual: u64; // tokens served over weight, in 1/1024
  weight: f32;
  concurrency: u32; // requests under way
  drained: f64; // bytes of work granted while somebody waited, decaying
  drainTime: f64; // ms in which that happened, decaying alike
  drainAt: f64; // ms
}

export const TENANT_WAITING: u32 = offsetof<TenantRow>("waiting");
export const TENANT_WORK: u32 = offsetof<TenantRow>("work");
export const TENANT_VIRTUAL: u32 = offsetof<TenantRow>("virtual");
export const TENANT_WEIGHT: u32 = offsetof<TenantRow>("weight");
export const TENANT_CONCURRENCY: u32 = offsetof<TenantRow>("concurrency");
export const TENANT_DRAINED: u32 = offsetof<TenantRow>("drained");
export const TENANT_DRAIN_TIME: u32 = offsetof<TenantRow>("drainTime");
export const TENANT_DRAIN_AT: u32 = offsetof<TenantRow>("drainAt");

export const WINDOWS: u32 = 3;
/** u64: 8 bits of the minute, 28 of the last minute's use, 28 of this one's. */
export const TENANT_WINDOWS: u32 = (offsetof<TenantRow>() + 7) & ~7;
/** i64: what was ever used of a window, less what was given back. */
export const TENANT_TOTALS: u32 = TENANT_WINDOWS + WINDOWS * 8;
/** u32: what other gateways used in the last 60 s. */
export const TENANT_REMOTE: u32 = TENANT_TOTALS + WINDOWS * 8;
/** u32: what they may be using until they tell. */
export const TENANT_PRESUMED: u32 = TENANT_REMOTE + WINDOWS * 4;
export const TENANT_BYTES: u32 = 128;
