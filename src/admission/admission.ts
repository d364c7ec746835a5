// SPDX-License-Identifier: Apache-2.0
// May this request in, and where does it stand in the queue: model, priority, limits, saturation, in this order, the
// cheapest first. What it is let in with is given back or settled when it ends.

import { GatewayError } from "../base/errors.ts";
import type { Config } from "../config/schema.ts";
import type { Limits, Reservation } from "./limits.ts";
import { bandOf, type Tenant, type Tenants } from "./tenants.ts";

/** Tokens that a request will probably take. */
export interface UsageEstimate {
  readonly inputTokens: number;
  readonly outputTokens: number;
}

/** What a request that asks to be let in says of itself. */
export interface Applicant {
  readonly tenant: Tenant;
  readonly model: string;
  readonly cluster: number;
  /** The priority that its header fields ask for. */
  readonly priority: string | undefined;
  /** Is asked only where the tenant has limits. */
  readonly estimate: () => UsageEstimate;
  /** Objective for its first token, ms; 0 for none. */
  readonly ttftSloMs: number;
}

export interface Admitted {
  readonly priority: number;
  /** Band in the queue. */
  readonly band: number;
  /** When its first token is due, shared ms; 0 for no such time. */
  readonly deadlineMs: number;
  readonly reservation: Reservation;
}

export interface AdmissionSources {
  /** How full a cluster is; 1 is full. */
  saturation(cluster: number): number;
  /** Ms that a tenant's backlog in a cluster takes. */
  backlogMs(cluster: number, tenant: number): number;
  /** Why this worker itself is overloaded; undefined when it is not. */
  overloaded(): string | undefined;
  /** Shared ms. */
  now(): number;
}

export class Admission {
  constructor(
    readonly tenants: Tenants,
    readonly limits: Limits,
    readonly config: Config["admission"],
    readonly sources: AdmissionSources,
  ) {}

  /** Throws GatewayError: model_not_allowed, invalid_request, saturated, rate_limited. */
  enter({ tenant, model, cluster, priority: asked, estimate, ttftSloMs }: Applicant): Admitted {
    const { tenants, limits, sources, config } = this;
    tenants.checkModel(tenant, model);
    const priority = tenants.priorityOf(tenant, asked);
    if (priority < config.shed_below) this.#shed(cluster, tenant);
    const reservation = limits.reserve(tenant, estimate);
    const deadlineMs = ttftSloMs > 0 && config.refuse_hopeless ? sources.now() + ttftSloMs : 0;
    return { priority, band: bandOf(priority), deadlineMs, reservation };
  }

  #shed(cluster: number, tenant: Tenant): void {
    const why = this.sources.overloaded();
    if (why !== undefined) throw new GatewayError("saturated", `This gateway is overloaded: ${why}`);
    const saturation = this.sources.saturation(cluster);
    if (saturation < 1) return;
    throw new GatewayError(
      "saturated",
      `The cluster is at ${
        Math.round(100 * saturation)
      } % of what it takes, and priority below ${this.config.shed_below} has to wait`,
    ).after(this.sources.backlogMs(cluster, tenant.row));
  }
}
