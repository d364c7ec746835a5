// SPDX-License-Identifier: Apache-2.0
// Label sets as bits: every set of labels that a cluster's rules name has a bit of the endpoints' eligibility words, so
// that filtering by labels is one AND. Bits 0 to 2 are the endpoint's own: serving, not backed off, on trial. Which set
// has which bit is the registry's to say; a bit goes to another set only when no request can ask for the first one any
// more.

import { assert } from "../base/assert.ts";
import { type Config, labelKey } from "../config/schema.ts";

export const SERVING_BIT = 1;

/** The label sets that a cluster's rules name, by their keys. */
export function labelSetsOf(config: Config, cluster: string): Map<string, Record<string, string>> {
  const sets = new Map<string, Record<string, string>>();
  for (const { rules } of Object.values(config.model_mapping_rule)) {
    for (const rule of rules) {
      if (rule.cluster !== cluster) continue;
      for (const { labels } of rule.subset) if (Object.keys(labels).length > 0) sets.set(labelKey(labels), labels);
    }
  }
  return sets;
}

/** The bits of the sets that an endpoint with these labels belongs to: it must carry every label of a set. */
export function memberships(bits: ReadonlyMap<string, number> | undefined, labels: Record<string, string>): number {
  let word = 0;
  for (const [key, bit] of bits ?? []) {
    const set = JSON.parse(key) as [string, string][];
    if (set.every(([name, value]) => labels[name] === value)) word |= bit;
  }
  return word;
}

/** The bits that a candidate for these labels must have. */
export function requiredBits(bits: ReadonlyMap<string, number> | undefined, labels: Record<string, string>): number {
  if (Object.keys(labels).length === 0) return SERVING_BIT;
  const bit = bits?.get(labelKey(labels));
  assert(bit !== undefined, "every label set that a rule names has a bit");
  return SERVING_BIT | bit;
}
