// SPDX-License-Identifier: Apache-2.0
// What engines report of themselves, written to their rows: gauges, capacity, adapters, models, and signs of a restart.

import type { AttachedKernel } from "../../wasm/kernel.ts";
import type { Clock } from "../base/clock.ts";
import { readModels } from "../engines/models.ts";
import type { ProbeResult } from "../engines/prober.ts";
import { HiddenPrefills } from "../scheduler/hidden_prefills.ts";
import { adapterNumber } from "../scheduler/placement.ts";
import type { EndpointTable } from "../tables/endpoint_table.ts";
import type { FleetHealth } from "./fleet_health.ts";
import type { Member } from "./member.ts";

export interface ReportParts {
  readonly kernel: AttachedKernel;
  readonly table: EndpointTable;
  readonly health: FleetHealth<Member>;
  readonly clock: Clock;
  /** Is told when an engine holds other adapters, or lists other models, than before. */
  changed(): void;
  /** Prompt chunks that so many tokens are. */
  chunks(tokens: number): number;
}

export class Reports {
  readonly #parts: ReportParts;
  readonly #hidden: HiddenPrefills;

  constructor(parts: ReportParts) {
    this.#parts = parts;
    this.#hidden = new HiddenPrefills(parts.kernel);
  }

  readonly probed = (member: Member, result: ProbeResult): void => {
    const { healthy, metrics, models, ms } = result;
    if (healthy !== undefined) this.#parts.health.probed(member, { ...result, healthy });
    if (metrics !== undefined) this.#measured(member, metrics, ms);
    if (models !== undefined) this.#listed(member, models);
  };

  /** It serves again after nobody had listened: a restart, unless its metrics tell better. */
  returned(member: Member): void {
    if (Number.isNaN(member.startTime) && Number.isNaN(member.promptTokens)) this.#restarted(member);
  }

  // What it held is not known any more.
  #restarted(member: Member): void {
    this.#parts.kernel.exports.indexForget(member.row);
    if (member.adapters.names.length === 0) return;
    member.adapters.forget();
    this.#adaptersChanged(member);
  }

  #adaptersChanged({ row, adapters }: Member): void {
    this.#parts.table.setAdapters(row, adapters.names.map(adapterNumber));
    this.#parts.changed();
  }

  #listed(member: Member, text: string): void {
    const models = readModels(text);
    if (models === undefined || JSON.stringify(models) === JSON.stringify(member.models)) return;
    member.models = models;
    this.#parts.changed();
  }

  #measured(member: Member, text: string | null, probeMs: number): void {
    const { clock, table, kernel } = this.#parts;
    const nowMs = clock.shared();
    const signals = text === null || member.engine === undefined ? {} : member.engine.signals(text);
    table.setGauges(member.row, {
      waiting: signals.waiting ?? NaN,
      running: signals.running ?? NaN,
      kvUsage: signals.kvUsage ?? NaN,
    });
    if (text !== null) member.metricsAt = clock.now();
    // The count is of a moment while the probe was under way: who was sent after its beginning is not in it.
    const done = this.#hidden.observe(member.row, signals.waiting ?? NaN, nowMs - probeMs, nowMs);
    if (done > 0) kernel.exports.fill(member.clusterRow, member.row, nowMs);
    if (signals.kvCapacityTokens !== undefined) {
      table.setCapacity(member.row, this.#parts.chunks(signals.kvCapacityTokens));
    }
    const { promptTokens = NaN, startTime = NaN } = signals;
    // A page that is missing for once tells nothing.
    if (promptTokens < member.promptTokens || Math.abs(startTime - member.startTime) > 1) this.#restarted(member);
    if (!Number.isNaN(promptTokens)) member.promptTokens = promptTokens;
    if (!Number.isNaN(startTime)) member.startTime = startTime;
    if (signals.adapters && member.adapters.seen(signals.adapters)) this.#adaptersChanged(member);
  }
}
