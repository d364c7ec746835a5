// SPDX-License-Identifier: Apache-2.0
// Model mapping: model and headers to a placement. Of the rules whose headers all match, the one with the most headers
// wins; of its subsets, one is drawn by weight. A LoRA adapter's name is a model too: it goes by the rules of its base
// model, to its cluster.

import { GatewayError } from "../base/errors.ts";
import type { RuleConfig, SubsetConfig } from "../config/models.ts";
import type { Snapshot } from "../config/snapshot.ts";
import type { Kind } from "../openai/api.ts";
import type { InferenceRequest } from "../openai/request.ts";
import { requiredBits } from "../scheduler/eligibility.ts";
import { adapterNumber, type Placement, placementSalt } from "../scheduler/placement.ts";
import { policyOf } from "../scheduler/policy.ts";
import { PLAIN, type Transport } from "../upstream/transport.ts";

/** Reads a request's header fields, by lower-case name; `:path`, `:method` and `:authority` are what its line says. */
export interface HeaderReader {
  get(name: string): string | null;
}

export interface Route {
  /** Model row. */
  readonly model: number;
  /** Name of that model, which a request that names none is for. */
  readonly modelName: string;
  readonly rule: RuleConfig;
  readonly placement: Placement;
  readonly transport: Transport;
  /** Name to send to the engine instead of the client's; empty for none. */
  readonly targetModel: string;
  /** The LoRA adapter that answers; empty for the base model. */
  readonly lora: string;
}

/** Stands for every model that has no rules of its own. */
export const ANY_MODEL = "*";

interface PreparedRule {
  rule: RuleConfig;
  routes: { route: Route; weight: number }[];
  totalWeight: number;
}

/** A model that clients may name. */
export interface ListedModel {
  readonly id: string;
  /** The base model of an adapter. */
  readonly parent: string | null;
  /** Longest prompt and answer in tokens, as its engines say; undefined when they do not. */
  readonly maxModelLen: number | undefined;
}

export class RouteTable {
  readonly #models = new Map<string, PreparedRule[]>();
  /** Base models by adapter: those that the config names, and those that engines hold. */
  readonly #adapters = new Map<string, string>();
  /** Routes of the subsets that name an adapter: with its labels. */
  readonly #declared = new Map<string, { route: Route; weight: number }[]>();
  /** Those of them that only engines that list them can serve. */
  readonly #listed = new Set<string>();
  readonly #adapterRoutes = new Map<string, Map<Route, Route>>();
  readonly #facts: Snapshot["facts"];

  /**
   * @param transportOf How a cluster's engines are reached.
   * @param random Uniform in [0, 1); draws subsets.
   */
  constructor(
    { config, rows, facts, adapters }: Snapshot,
    transportOf: (cluster: string) => Transport = () => PLAIN,
    readonly random: () => number = Math.random,
  ) {
    this.#facts = facts;
    for (const { name, model, listed } of adapters) {
      this.#adapters.set(name, model);
      if (listed) this.#listed.add(name);
    }
    for (const [name, { rules }] of Object.entries(config.model_mapping_rule)) {
      const policy = policyOf(config, name);
      const prepared = rules.map((rule): PreparedRule => {
        const subsets: Pick<SubsetConfig, "labels" | "lora" | "weight">[] = rule.subset.length > 0
          ? rule.subset
          : [{ labels: {}, lora: "", weight: 1 }];
        const routes = subsets.map(({ labels, lora, weight }) => {
          const placement = {
            cluster: rows.clusters.get(rule.cluster)!,
            eligibility: requiredBits(rows.labels.get(rule.cluster), labels),
            salt: placementSalt(rule.cluster, lora),
            adapter: adapterNumber(lora, this.#listed.has(lora)),
            policy,
          };
          const route: Route = {
            model: rows.models.get(name)!,
            modelName: name,
            rule,
            placement,
            transport: transportOf(rule.cluster),
            targetModel: lora || rule.target_model,
            lora,
          };
          if (lora !== "") {
            this.#adapters.set(lora, name);
            this.#declared.set(lora, [...this.#declared.get(lora) ?? [], { route, weight }]);
          }
          return { route, weight };
        });
        return { rule, routes, totalWeight: routes.reduce((sum, { weight }) => sum + weight, 0) };
      });
      prepared.sort((a, b) => b.rule.headers.length - a.rule.headers.length);
      this.#models.set(name, prepared);
    }
  }

  /** Every name that a request may have as its model. */
  get models(): ListedModel[] {
    const lengthOf = (model: string) => this.#facts.get(model)?.maxModelLen;
    const base = [...this.#models.keys()].filter((id) => id !== ANY_MODEL).map((id): ListedModel => ({
      id,
      parent: null,
      maxModelLen: lengthOf(id),
    }));
    const adapters = [...this.#adapters].filter(([id, parent]) => !this.#models.has(id) && this.#models.has(parent));
    return [
      ...base,
      ...adapters.map(([id, parent]): ListedModel => ({ id, parent, maxModelLen: lengthOf(parent) })),
    ];
  }

  /** Throws GatewayError: model_not_found, route_not_found; invalid_request for none where there are several. */
  resolve({ model, kind }: Pick<InferenceRequest, "model" | "kind">, headers: HeaderReader): Route {
    const rules = this.#models.get(model) ?? (model === "" ? this.#only(kind) : undefined);
    if (rules) return this.#draw(model, rules, headers);
    const base = this.#adapters.get(model);
    if (base === undefined || !this.#models.has(base)) {
      const any = this.#models.get(ANY_MODEL);
      if (any) return this.#draw(model, any, headers);
      throw new GatewayError("model_not_found", `The model ${JSON.stringify(model)} does not exist`, "model");
    }
    const declared = this.#declared.get(model);
    if (declared) return this.#drawDeclared(declared, headers);
    return this.#adapted(model, this.#draw(base, this.#models.get(base)!, headers));
  }

  // Of a request that names no model. Engines whose list of models is known take one for their own.
  #only(kind: Kind): PreparedRule[] {
    const [[name, rules] = [], ...others] = this.#models;
    const listed = this.#facts.has(name!) || kind === "other" || kind === "form";
    if (rules !== undefined && others.length === 0 && listed) return rules;
    const why = rules === undefined ? "none" : others.length > 0 ? "several" : "one that no engine has listed yet";
    throw new GatewayError("invalid_request", `\`model\` is required: the gateway serves ${why}`, "model");
  }

  // A subset of a rule that the headers match, else of any: whoever names the adapter itself needs no header for it.
  #drawDeclared(declared: { route: Route; weight: number }[], headers: HeaderReader): Route {
    const matching = declared.filter(({ route }) => matches(route.rule, headers));
    const among = matching.length > 0 ? matching : declared;
    return drawn(among, among.reduce((sum, { weight }) => sum + weight, 0), this.random());
  }

  #draw(model: string, rules: PreparedRule[], headers: HeaderReader): Route {
    for (const { rule, routes, totalWeight } of rules) {
      if (!matches(rule, headers)) continue;
      return routes.length === 1 ? routes[0].route : drawn(routes, totalWeight, this.random());
    }
    throw new GatewayError(
      "route_not_found",
      `The model ${JSON.stringify(model)} has no route for these headers and none without headers`,
      "model",
    );
  }

  // The route of a base model with an adapter in its place.
  #adapted(lora: string, base: Route): Route {
    let routes = this.#adapterRoutes.get(lora);
    if (!routes) this.#adapterRoutes.set(lora, routes = new Map());
    let route = routes.get(base);
    if (!route) {
      const placement = {
        ...base.placement,
        salt: placementSalt(base.rule.cluster, lora),
        adapter: adapterNumber(lora, this.#listed.has(lora)),
      };
      route = { ...base, placement, targetModel: lora, lora };
      routes.set(base, route);
    }
    return route;
  }
}

function matches(rule: RuleConfig, headers: HeaderReader): boolean {
  return rule.headers.every(({ key, value }) => headers.get(key) === value);
}

function drawn(routes: { route: Route; weight: number }[], totalWeight: number, random: number): Route {
  let left = random * totalWeight;
  for (const { route, weight } of routes) if ((left -= weight) < 0) return route;
  return (routes.findLast(({ weight }) => weight > 0) ?? routes[0]).route;
}
