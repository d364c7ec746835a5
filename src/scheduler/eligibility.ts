// SPDX-License-Identifier: Apache-2.0
// Label sets as bits: every set of labels that a cluster's rules name has a bit of the endpoints' eligibility words, so
// that filtering by labels is one AND. Bits 0 to 2 are the endpoint's own: serving, willing, on trial.

import { type Config, labelKey } from "../config/schema.ts";

export const SERVING_BIT = 1;
/** The first label set's bit: LABEL_BITS of the kernel's layout. */
const FIRST_LABEL_BIT = 8;

/** For each cluster name: the label sets of its rules and their bits. The same config gives the same bits everywhere. */
export type LabelSets = Map<string, Map<string, { bit: number; labels: Record<string, string> }>>;

export function labelSetsOf(config: Config): LabelSets {
  const clusters: LabelSets = new Map();
  for (const { rules } of Object.values(config.model_mapping_rule)) {
    for (const { cluster, subset } of rules) {
      const sets = clusters.get(cluster) ?? new Map();
      clusters.set(cluster, sets);
      for (const { labels } of subset) {
        const key = labelKey(labels);
        if (Object.keys(labels).length > 0 && !sets.has(key)) {
          sets.set(key, { bit: FIRST_LABEL_BIT << sets.size, labels });
        }
      }
    }
  }
  return clusters;
}

/** The bits of the sets that an endpoint with these labels belongs to: it must carry every label of a set. */
export function memberships(sets: LabelSets, cluster: string, labels: Record<string, string>): number {
  let bits = 0;
  for (const set of sets.get(cluster)?.values() ?? []) {
    if (Object.entries(set.labels).every(([key, value]) => labels[key] === value)) bits |= set.bit;
  }
  return bits;
}

/** The bits that a candidate for these labels must have. */
export function requiredBits(sets: LabelSets, cluster: string, labels: Record<string, string>): number {
  return SERVING_BIT | (sets.get(cluster)?.get(labelKey(labels))?.bit ?? 0);
}
