// SPDX-License-Identifier: Apache-2.0
// One endpoint of the fleet, as the control plane knows it.

import { type Address, formatAddress } from "../base/address.ts";
import type { EndpointSpec } from "../discovery/discovery.ts";
import type { EngineSignals } from "../engines/signals.ts";
import type { Engine, ProbePages } from "../engines/engine.ts";
import type { ListedByEngine } from "../engines/models.ts";
import type { ProbeTarget } from "../engines/prober.ts";
import type { PageReader } from "../upstream/page_reader.ts";
import { LoadedAdapters } from "./adapters.ts";
import type { Patient } from "./fleet_health.ts";
import { SlotLimit } from "./slots.ts";

export interface MemberParts {
  readonly cluster: string;
  readonly clusterRow: number;
  readonly row: number;
  /** HOST:PORT */
  readonly name: string;
  readonly spec: EndpointSpec;
  readonly engine: Omit<Engine, "prepare"> | undefined;
  readonly pages: ProbePages;
  readonly reader: PageReader;
  /** Requests that it runs at once, by the configuration. */
  readonly slots: number | undefined;
  /** Data-parallel ranks behind its address, itself among them. */
  readonly ranks: number;
}

export class Member implements ProbeTarget, Patient {
  readonly cluster: string;
  readonly clusterRow: number;
  readonly row: number;
  /** HOST:PORT */
  readonly name: string;
  spec: EndpointSpec;
  engine: Omit<Engine, "prepare"> | undefined;
  pages: ProbePages;
  reader: PageReader;
  /** Data-parallel ranks behind its address, itself among them. */
  ranks: number;
  readonly adapters = new LoadedAdapters();
  /** What its engine lists in /v1/models; undefined until it does. */
  models: readonly ListedByEngine[] | undefined;
  readonly slots: SlotLimit;
  /** Ms that its pages take, as moving means: what metrics take beyond what a question takes at all. */
  readonly cost = { healthMs: 0, metricsMs: 0 };
  /** Tokens that its KV cache holds, as its metrics tell. */
  kvTokens: number | undefined;
  asleep = false;
  paused = false;
  /** Prompt tokens that it looked up in its prefix cache, and found there. */
  prefixTokens: EngineSignals["prefixTokens"];
  promptTokens = NaN;
  generatedTokens = NaN;
  startTime = NaN;
  metricsAt: number | undefined;
  /** When the engine was asked for what is known of it, in the clock's ms, at the earliest. */
  readAt = -Infinity;
  /** Since when it has been out of the fleet, in the clock's ms; undefined while it is in it. */
  leftAt: number | undefined;

  constructor(parts: MemberParts) {
    this.cluster = parts.cluster;
    this.clusterRow = parts.clusterRow;
    this.row = parts.row;
    this.name = parts.name;
    this.spec = parts.spec;
    this.engine = parts.engine;
    this.pages = parts.pages;
    this.reader = parts.reader;
    this.ranks = parts.ranks;
    this.slots = new SlotLimit(parts.slots);
  }

  /** LoRA adapters that its engine lists; none while its list is not known. */
  get listedAdapters(): readonly ListedByEngine[] {
    return this.models?.filter(({ parent }) => parent !== undefined) ?? [];
  }

  get address(): Address {
    return { hostname: this.spec.host, port: this.spec.port };
  }

  /** Its own labels, and one for each model that it lists. */
  get labels(): Readonly<Record<string, string>> {
    if (this.models === undefined) return this.spec.labels;
    return { ...this.spec.labels, ...Object.fromEntries(this.models.map(({ id }) => [modelLabel(id), "listed"])) };
  }

  /** Whether a name is its own, or that of its address with all ranks. */
  isCalled(name: string): boolean {
    return name === this.name || name === formatAddress(this.address);
  }

  get port(): number {
    return this.spec.port;
  }
}

/** A label that endpoints have for each model that they list. */
export function modelLabel(model: string): string {
  return `aigw/model=${model}`;
}
