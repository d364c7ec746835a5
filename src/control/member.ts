// SPDX-License-Identifier: Apache-2.0
// One endpoint of the fleet, as the control plane knows it.

import type { Address } from "../base/address.ts";
import type { EndpointSpec } from "../discovery/discovery.ts";
import type { Engine, ProbePages } from "../engines/engine.ts";
import type { ListedByEngine } from "../engines/models.ts";
import type { ProbeTarget } from "../engines/prober.ts";
import type { PageReader } from "../upstream/page_reader.ts";
import { HeldAdapters } from "./adapters.ts";
import type { Patient } from "./fleet_health.ts";

export class Member implements ProbeTarget, Patient {
  readonly adapters = new HeldAdapters();
  /** What its engine lists in /v1/models; undefined until it does. */
  models: readonly ListedByEngine[] | undefined;
  promptTokens = NaN;
  startTime = NaN;
  metricsAt: number | undefined;
  /** Since when it has been out of the fleet, in the clock's ms; undefined while it is in it. */
  leftAt: number | undefined;

  constructor(
    readonly cluster: string,
    readonly clusterRow: number,
    readonly row: number,
    /** HOST:PORT */
    readonly name: string,
    public spec: EndpointSpec,
    public engine: Omit<Engine, "prepare"> | undefined,
    public pages: ProbePages,
    public reader: PageReader,
  ) {}

  get address(): Address {
    return { hostname: this.spec.host, port: this.spec.port };
  }

  /** Its own labels, and one for each model that it lists. */
  get labels(): Readonly<Record<string, string>> {
    if (this.models === undefined) return this.spec.labels;
    return { ...this.spec.labels, ...Object.fromEntries(this.models.map(({ id }) => [modelLabel(id), "listed"])) };
  }

  get port(): number {
    return this.spec.port;
  }
}

/** A label that endpoints have for each model that they list. */
export function modelLabel(model: string): string {
  return `aigw/model=${model}`;
}
