// SPDX-License-Identifier: Apache-2.0
// Fair shares in tokens: a tenant's virtual time is what it was served over its weight, and the least goes first. Beside it, how fast a tenant's
// work is granted while some of it waits.

import { tenantAt } from "../memory/plan";
import { T_DRAIN_AT, T_DRAIN_TIME, T_DRAINED, T_VIRTUAL, T_WAITING, T_WEIGHT } from "../memory/tenant";
import { fleetRate } from "./order";

/** Ms over which the rate of service is averaged. */
const DRAIN_MS: f64 = 10_000;
/** Ms of service at the endpoints' own rates that count as seen before the first. */
const PRIOR_MS: f64 = 2_000;

// Bytes over a tenant's weight.
@inline
export function virtualOf(books: usize, bytes: f64): u64 {
  return <u64>max<f64>(0, bytes * 1024 / max<f64>(1e-3, <f64>load<f32>(books, T_WEIGHT)));
}

// Time passes for a tenant's rate of service; `work` bytes of it are granted now.
export function observeDrain(tenant: usize, work: u32, now: f64): void {
  const passed = now - load<f64>(tenant, T_DRAIN_AT);
  store<f64>(tenant, now, T_DRAIN_AT);
  if (passed > 0 && load<u32>(tenant, T_WAITING) > 0) {
    const kept = DRAIN_MS / (DRAIN_MS + passed);
    store<f64>(tenant, load<f64>(tenant, T_DRAINED) * kept, T_DRAINED);
    store<f64>(tenant, load<f64>(tenant, T_DRAIN_TIME) * kept + passed, T_DRAIN_TIME);
  }
  store<f64>(tenant, load<f64>(tenant, T_DRAINED) + <f64>work, T_DRAINED);
}

// Bytes of prefill work a ms that a tenant was granted lately while it had some waiting.
@inline
export function serviceRate(tenant: usize, fleetRate: f64): f64 {
  const drained = load<f64>(tenant, T_DRAINED) + PRIOR_MS * fleetRate;
  return max<f64>(1e-9, drained / (load<f64>(tenant, T_DRAIN_TIME) + PRIOR_MS));
}

/** A tenant is granted a prompt of so many bytes, of which `work` are to be computed; `waited` when it was in the queue. */
export function charge(tenant: u32, prompt: u32, work: u32, waited: bool, now: f64): void {
  const books = tenantAt(tenant);
  if (waited || load<u32>(books, T_WAITING) > 0) observeDrain(books, work, now);
  serve(tenant, prompt);
}

/** Adds bytes of a tenant's prompts or answers to what it was served. */
export function serve(tenant: u32, bytes: f64): void {
  const books = tenantAt(tenant);
  atomic.add<u64>(books + T_VIRTUAL, virtualOf(books, bytes));
}
