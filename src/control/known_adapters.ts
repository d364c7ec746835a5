// SPDX-License-Identifier: Apache-2.0
// The LoRA adapters that clients may name: which ones an engine can serve is in its list of models, or, of one without a
// list, among those in use.

import type { Config } from "../config/schema.ts";
import type { KnownAdapter } from "../config/snapshot.ts";
import type { Member } from "./member.ts";

/**
 * Adapters that engines list, each with the model that it is on as far as that is served; and those that are in use on
 * engines that list none, on the first model of their cluster.
 */
export function adaptersOf(members: readonly Member[], { model_mapping_rule }: Config): KnownAdapter[] {
  const known = new Map<string, KnownAdapter>();
  const modelOf = new Map<string, string>();
  for (const [model, { rules }] of Object.entries(model_mapping_rule)) {
    for (const { cluster } of rules) if (!modelOf.has(cluster)) modelOf.set(cluster, model);
  }
  const add = (name: string, model: string, listed: boolean) => {
    if (listed || !known.has(name)) known.set(name, { name, model, listed });
  };
  for (const { cluster, adapters, models, listedAdapters, leftAt } of members) {
    const first = modelOf.get(cluster);
    if (first === undefined || leftAt !== undefined) continue;
    for (const { id, parent } of listedAdapters) add(id, baseOf(parent!, cluster, model_mapping_rule) ?? first, true);
    if (models === undefined) { for (const name of adapters.names) add(name, first, false); }
  }
  return [...known.values()];
}

// The model that clients name for what a cluster's engines call `parent`.
function baseOf(parent: string, cluster: string, models: Config["model_mapping_rule"]): string | undefined {
  for (const [model, { rules }] of Object.entries(models)) {
    for (const rule of rules) if (rule.cluster === cluster && (rule.target_model || model) === parent) return model;
  }
}
