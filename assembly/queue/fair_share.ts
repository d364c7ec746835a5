// SPDX-License-Identifier: Apache-2.0
// Fair shares in tokens: a tenant's virtual time is what it was served over its weight, and the least goes first. Beside
// it, how fast a tenant's work is granted while some of it waits.

import { tenantAt, tenantRow } from "../memory/plan";
import { TENANT_VIRTUAL, TenantRow } from "../memory/tenant";

/** Ms over which the rate of service is averaged. */
const DRAIN_MS: f64 = 10_000;
/** Ms of service at the endpoints' own rates that count as seen before the first. */
const PRIOR_MS: f64 = 2_000;

// Bytes over a tenant's weight.
@inline
export function virtualOf(account: TenantRow, bytes: f64): u64 {
  return <u64>max<f64>(0, bytes * 1024 / max<f64>(1e-3, <f64>account.weight));
}

// Time passes for a tenant's rate of service; `work` bytes of it are granted now. `waited`: to one that was in the queue up
// to now, and may have been the last.
export function observeDrain(account: TenantRow, work: u32, now: f64, waited: bool = false): void {
  const passed = now - account.drainAt;
  account.drainAt = now;
  if (passed > 0 && (waited || account.waiting > 0)) {
    const kept = DRAIN_MS / (DRAIN_MS + passed);
    account.drained = account.drained * kept;
    account.drainTime = account.drainTime * kept + passed;
  }
  account.drained = account.drained + <f64>work;
}

// Bytes of prefill work a ms that a tenant was granted lately while it had some waiting.
@inline
export function serviceRate(account: TenantRow, fleetRate: f64): f64 {
  const drained = account.drained + PRIOR_MS * fleetRate;
  return max<f64>(1e-9, drained / (account.drainTime + PRIOR_MS));
}

/** A tenant is granted a prompt of so many bytes, of which `work` are to be computed; `waited` when it was in the queue. */
export function charge(tenant: u32, prompt: u32, work: u32, waited: bool, now: f64): void {
  const account = tenantRow(tenant);
  if (waited || account.waiting > 0) observeDrain(account, work, now, waited);
  serve(tenant, prompt);
}

/** Adds bytes of a tenant's prompts or answers to what it was served. */
export function serve(tenant: u32, bytes: f64): void {
  atomic.add<u64>(tenantAt(tenant) + TENANT_VIRTUAL, virtualOf(tenantRow(tenant), bytes));
}
