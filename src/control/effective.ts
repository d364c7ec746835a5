// SPDX-License-Identifier: Apache-2.0
// The configuration as requests are served by it: with the models that engines list where a cluster is to serve those, and
// the priorities that InferenceObjectives name.

import { type RuleConfig, ruleSchema } from "../config/models.ts";
import { type Config, MAX_LABEL_SETS } from "../config/schema.ts";
import type { ModelFacts } from "../config/snapshot.ts";
import type { Backend } from "../engines/backends.ts";
import { labelSetsOf } from "../scheduler/eligibility.ts";
import { type Member, modelLabel } from "./member.ts";

/** Kinds of engines by what they call themselves in /v1/models. */
const OWNERS: Readonly<Record<string, Backend>> = { vllm: "vllm", sglang: "sglang" };

export interface Effective {
  readonly config: Config;
  readonly facts: Map<string, ModelFacts>;
}

/** What the configuration does not say, and its surroundings do. */
export interface Surroundings {
  membersOf(cluster: string): readonly Readonly<Member>[];
  /** Priorities by name. */
  readonly objectives: Readonly<Record<string, number>>;
}

/** Adds what is known from elsewhere to a configuration. What the configuration itself says stays as it is. */
export function effective(config: Config, { membersOf, objectives }: Surroundings): Effective {
  const facts = new Map<string, ModelFacts>();
  const found: Config["model_mapping_rule"] = {};
  for (const cluster of config.clusters) {
    const members = membersOf(cluster.name).filter(({ leftAt }) => leftAt === undefined);
    const lists = members.flatMap(({ models }) => models === undefined ? [] : [models.filter(({ parent }) => !parent)]);
    const listed = new Map(lists.flat().map((model) => [model.id, model]));
    for (const { id, maxModelLen } of lists.flat()) {
      const known = facts.get(id)?.maxModelLen ?? Infinity;
      const least = Math.min(maxModelLen ?? Infinity, known);
      facts.set(id, { maxModelLen: least === Infinity ? undefined : least });
    }
    if (!cluster.discover_models) continue;
    const owner = [...listed.values()].map(({ ownedBy }) => OWNERS[ownedBy]).find((kind) => kind !== undefined);
    const backend = cluster.backend ?? backendOf(config, cluster.name) ?? owner ?? "openai";
    let bits = MAX_LABEL_SETS - labelSetsOf(config, cluster.name).size;
    for (const id of listed.keys()) {
      if (Object.hasOwn(config.model_mapping_rule, id) || Object.hasOwn(found, id)) continue;
      // One that only some of them list goes to these; there are but so many bits to tell them by.
      const all = lists.every((list) => list.some((one) => one.id === id));
      if (!all && bits-- <= 0) continue;
      const subset = all ? [] : [{ labels: { [modelLabel(id)]: "listed" } }];
      found[id] = { rules: [ruleSchema.parse({ backend, cluster: cluster.name, subset })] };
    }
  }
  // An alias is what its engines call by another name.
  for (const [model, { rules }] of Object.entries(config.model_mapping_rule)) {
    const known = facts.get(rules[0].target_model);
    if (known && !facts.has(model)) facts.set(model, known);
  }
  const models = { ...config.model_mapping_rule, ...found };
  const over = Object.keys(models).slice(config.limits.models);
  for (const name of over) delete models[name];
  const tenancy = { ...config.tenancy, objectives: { ...objectives, ...config.tenancy.objectives } };
  return { config: { ...config, model_mapping_rule: models, tenancy }, facts };
}

function backendOf({ model_mapping_rule }: Config, cluster: string): Backend | undefined {
  for (const { rules } of Object.values(model_mapping_rule)) {
    for (const rule of rules) if (rule.cluster === cluster) return rule.backend;
  }
}

/** The first rule that names each cluster: all that do say the same of its engines. */
export function ruleOfEach({ model_mapping_rule }: Config): Map<string, RuleConfig> {
  const rules = new Map<string, RuleConfig>();
  for (const model of Object.values(model_mapping_rule)) {
    for (const rule of model.rules) if (!rules.has(rule.cluster)) rules.set(rule.cluster, rule);
  }
  return rules;
}
