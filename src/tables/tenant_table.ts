// SPDX-License-Identifier: Apache-2.0
// Tenants' rows in the shared memory: what they were served, what of theirs waits.

import type { AttachedKernel } from "../../wasm/kernel.ts";

/** Sets a tenant's weight. Control plane only, before any worker starts. */
export function writeTenant(kernel: AttachedKernel, tenant: number, { weight }: { weight: number }): void {
  const k = kernel.exports;
  new Float32Array(kernel.buffer)[(k.tenantOffset(tenant) + k.T_WEIGHT) >>> 2] = weight;
}
