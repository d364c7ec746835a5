// SPDX-License-Identifier: Apache-2.0
// Model mapping: model and headers to a placement. Of the rules whose headers all match, the one with the most headers
// wins; of its subsets, one is drawn by weight.

import { GatewayError } from "../base/errors.ts";
import type { RuleConfig, SubsetConfig } from "../config/models.ts";
import type { Config } from "../config/schema.ts";
import { type Placement, placementSalt } from "../scheduler/decision.ts";
import { labelSetsOf, requiredBits } from "../scheduler/eligibility.ts";
import { policyOf } from "../scheduler/policy.ts";

export interface Route {
  /** Model row: its place in the config. */
  readonly model: number;
  readonly rule: RuleConfig;
  readonly placement: Placement;
  /** Name to send to the engine instead of the client's; empty for none. */
  readonly targetModel: string;
}

interface PreparedRule {
  rule: RuleConfig;
  routes: { route: Route; weight: number }[];
  totalWeight: number;
}

export class RouteTable {
  readonly #models = new Map<string, PreparedRule[]>();

  /** @param random Uniform in [0, 1); draws subsets. */
  constructor(config: Config, readonly random: () => number = Math.random) {
    const labelSets = labelSetsOf(config);
    const clusters = new Map(config.clusters.map(({ name }, row) => [name, row]));
    Object.entries(config.model_mapping_rule).forEach(([name, { rules }], model) => {
      const policy = policyOf(config, name);
      const prepared = rules.map((rule): PreparedRule => {
        const subsets: Pick<SubsetConfig, "labels" | "lora" | "weight">[] = rule.subset.length > 0
          ? rule.subset
          : [{ labels: {}, lora: "", weight: 1 }];
        const routes = subsets.map(({ labels, lora, weight }) => {
          const placement = {
            cluster: clusters.get(rule.cluster)!,
            eligibility: requiredBits(labelSets, rule.cluster, labels),
            salt: placementSalt(rule.cluster, lora),
            policy,
          };
          return { route: { model, rule, placement, targetModel: lora }, weight };
        });
        return { rule, routes, totalWeight: routes.reduce((sum, { weight }) => sum + weight, 0) };
      });
      prepared.sort((a, b) => b.rule.headers.length - a.rule.headers.length);
      this.#models.set(name, prepared);
    });
  }

  get models(): IterableIterator<string> {
    return this.#models.keys();
  }

  /** Throws GatewayError: model_not_found, route_not_found. */
  resolve(model: string, headers: Headers): Route {
    const rules = this.#models.get(model);
    if (!rules) {
      throw new GatewayError("model_not_found", `The model ${JSON.stringify(model)} does not exist`, "model");
    }
    for (const { rule, routes, totalWeight } of rules) {
      if (!rule.headers.every(({ key, value }) => headers.get(key) === value)) continue;
      if (routes.length === 1) return routes[0].route;
      let drawn = this.random() * totalWeight;
      for (const { route, weight } of routes) if ((drawn -= weight) < 0) return route;
      return routes.findLast(({ weight }) => weight > 0)!.route;
    }
    throw new GatewayError(
      "route_not_found",
      `The model ${JSON.stringify(model)} has no route for these headers and none without headers`,
      "model",
    );
  }
}
