// SPDX-License-Identifier: Apache-2.0
// Where a request may go, in the kernel's terms.

import { fnv1a } from "../base/fnv1a.ts";
import type { Policy } from "./policy.ts";

/** Where a request may go: the result of routing. */
export interface Placement {
  /** Cluster row. */
  readonly cluster: number;
  /** Bits that an endpoint's eligibility must have. */
  readonly eligibility: number;
  /** Keeps the prefixes of different clusters and adapters apart. */
  readonly salt: number;
  /** Number of the LoRA adapter, with MUST_LIST where engines list it; 0 for the base model. */
  readonly adapter: number;
  readonly policy: Policy;
}

/** The same placement for requests that no KV cache helps. */
export function withoutCache(placement: Placement): Placement {
  let plain = PLAIN.get(placement);
  if (!plain) PLAIN.set(placement, plain = { ...placement, policy: { ...placement.policy, cacheAware: false } });
  return plain;
}

const PLAIN = new WeakMap<Placement, Placement>();

/** Salt of the prefixes of a cluster's base model, or of a LoRA adapter on it. */
export function placementSalt(cluster: string, lora: string): number {
  return fnv1a(`${cluster}\n${lora}`);
}

/** The kernel's flag of an adapter that only endpoints that list it can serve. */
export const MUST_LIST = 128;

/**
 * Number that stands for an adapter in the endpoints' sets, 1 to 64; 0 for none. Different names may share one. With
 * MUST_LIST for one that is `listed`.
 */
export function adapterNumber(lora: string, listed = false): number {
  return lora === "" ? 0 : (1 + fnv1a(lora) % 64) | (listed ? MUST_LIST : 0);
}
