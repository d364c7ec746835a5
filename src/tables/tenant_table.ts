// SPDX-License-Identifier: Apache-2.0
// Tenants' rows in the shared memory: what they were served, what of theirs waits, what they used of their limits.

import type { AttachedKernel } from "../../wasm/kernel.ts";

/** Sets a tenant's weight. Control plane only, before any worker starts. */
export function writeTenant(kernel: AttachedKernel, tenant: number, { weight }: { weight: number }): void {
  const k = kernel.exports;
  new Float32Array(kernel.buffer)[(k.tenantOffset(tenant) + k.TENANT_WEIGHT) >>> 2] = weight;
}

/** What other gateways used of a tenant's window in the last minute, and what they may be using until they tell. */
export interface RemoteUse {
  readonly used: number;
  readonly presumed: number;
}

/** Sets it. Control plane only. */
export function writeRemoteUse(
  kernel: AttachedKernel,
  tenant: number,
  window: number,
  { used, presumed }: RemoteUse,
): void {
  const k = kernel.exports;
  const words = new Int32Array(kernel.buffer);
  const at = (k.tenantOffset(tenant) >>> 2) + window;
  Atomics.store(words, at + (k.TENANT_REMOTE >>> 2), Math.round(used));
  Atomics.store(words, at + (k.TENANT_PRESUMED >>> 2), Math.round(presumed));
}

/** What this gateway ever used of each of a tenant's windows; less what was given back. */
export function ownUse(kernel: AttachedKernel, tenant: number): number[] {
  const k = kernel.exports;
  const at = (k.tenantOffset(tenant) + k.TENANT_TOTALS) >>> 3;
  return [...new BigInt64Array(kernel.buffer).subarray(at, at + k.WINDOWS)].map(Number);
}

/** What this gateway used of a tenant's window in the last minute. */
export function ownWindow(kernel: AttachedKernel, tenant: number, window: number, sharedMs: number): number {
  const k = kernel.exports;
  const remote = new Int32Array(kernel.buffer)[((k.tenantOffset(tenant) + k.TENANT_REMOTE) >>> 2) + window];
  return k.limitUsed(tenant, window, sharedMs) - remote;
}

/** Requests of a tenant under way, and waiting. */
export function tenantLoad(kernel: AttachedKernel, tenant: number): { concurrency: number; waiting: number } {
  const k = kernel.exports;
  const words = new Int32Array(kernel.buffer);
  const at = k.tenantOffset(tenant);
  return {
    concurrency: Atomics.load(words, (at + k.TENANT_CONCURRENCY) >>> 2),
    waiting: Atomics.load(words, (at + k.TENANT_WAITING) >>> 2),
  };
}

/** Sets the part of every limit that this gateway may use by itself, 0 to 1. Control plane only. */
export function writeOwnShare(kernel: AttachedKernel, share: number): void {
  new Float32Array(kernel.buffer)[kernel.exports.HEADER_SHARE] = share;
}

/** Reads it. */
export function ownShareReader(kernel: AttachedKernel): () => number {
  const floats = new Float32Array(kernel.buffer, 0, kernel.exports.HEADER_SHARE + 1);
  return () => floats[kernel.exports.HEADER_SHARE];
}
