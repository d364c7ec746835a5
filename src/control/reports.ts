// SPDX-License-Identifier: Apache-2.0
// What engines report, from their pages to their rows: health, load, what their caches and slots hold, the models and
// adapters that they list. A page of metrics costs an engine milliseconds of its interpreter, so it is asked for often
// only while that pays, and never for more than a small share of the engine's time.

import type { AttachedKernel } from "../../wasm/kernel.ts";
import type { Clock } from "../base/clock.ts";
import type { Config } from "../config/schema.ts";
import type { EngineSignals } from "../engines/signals.ts";
import { readModels } from "../engines/models.ts";
import { CellLayout } from "../telemetry/cells.ts";
import type { ProbeResult } from "../engines/prober.ts";
import type { EngineReport } from "../metadata/engine_report.ts";
import { HiddenPrefills } from "../scheduler/hidden_prefills.ts";
import { adapterNumber } from "../scheduler/placement.ts";
import { EndpointAdapters } from "../tables/endpoint_adapters.ts";
import { EndpointPulse } from "../tables/endpoint_pulse.ts";
import type { EndpointTable } from "../tables/endpoint_table.ts";
import type { Log } from "../telemetry/log.ts";
import type { FleetHealth } from "./fleet_health.ts";
import { CachedTokensHint } from "./hints.ts";
import type { Member } from "./member.ts";

/** Times the least interval between two questions for metrics, of an engine that is at work, and of an idle one. */
const BUSY_PACE = 5;
const IDLE_PACE = 25;
/** Weight of a probe in the mean of what metrics cost. */
const COST_PACE = 0.2;

export interface ReportsParts {
  readonly kernel: AttachedKernel;
  readonly table: EndpointTable;
  readonly health: FleetHealth<Member>;
  readonly clock: Clock;
  readonly log: Log;
  config(): Config;
  /** Engines hold other adapters, or list other models, than before. */
  changed(): void;
  /** Metrics were read: of what was asked for `ageMs` ago. */
  measured(member: Member, signals: EngineSignals, ageMs: number): void;
  /** Chunks that so many tokens are. */
  chunks(tokens: number): number;
}

export class Reports {
  readonly #parts: ReportsParts;
  readonly #hidden: HiddenPrefills;
  readonly #pulse: EndpointPulse;
  readonly #adapters: EndpointAdapters;
  readonly #hint: CachedTokensHint;

  constructor(parts: ReportsParts) {
    this.#parts = parts;
    this.#hint = new CachedTokensHint(parts.kernel, new CellLayout(parts.config().limits), parts.log);
    this.#hidden = new HiddenPrefills(parts.kernel);
    this.#pulse = new EndpointPulse(parts.kernel);
    this.#adapters = new EndpointAdapters(parts.kernel);
  }

  readonly probed = (member: Member, result: ProbeResult): void => {
    const { healthy, healthMs, metrics, models, paused, ms } = result;
    if (healthMs !== undefined) member.cost.healthMs += COST_PACE * (healthMs - member.cost.healthMs);
    if (healthy !== undefined) this.#parts.health.probed(member, { ...result, healthy });
    if (metrics !== undefined) this.#asked(member, metrics, ms);
    if (models !== undefined) this.#listed(member, models);
    if (paused !== undefined) {
      member.paused = paused;
      this.#rest(member);
    }
  };

  /** Ms from one question for metrics to the next. */
  readonly paceMs = (member: Member): number => {
    const { probes } = this.#parts.config();
    const { row, slots, cost } = member;
    const { table } = this.#parts;
    const requests = table.requests(row) + table.remoteRequests(row);
    // First tokens that nobody sees, and slots that nobody knows, are told by nothing else.
    const pressed = slots.pressed(requests);
    const eager = requests > 0 && (pressed || this.#hidden.any(row, this.#parts.clock.shared()));
    const pace = eager ? 1 : requests > 0 ? BUSY_PACE : IDLE_PACE;
    // The ranks of one engine share its time.
    const leastMs = pressed ? 0 : 100 * cost.metricsMs * member.ranks / probes.metrics_budget_percent;
    return Math.max(pace * probes.metrics_interval_ms, leastMs);
  };

  /** It serves again after nobody had listened: a restart, unless its metrics tell better. */
  returned(member: Member): void {
    if (Number.isNaN(member.startTime) && Number.isNaN(member.promptTokens)) this.#restarted(member);
  }

  // What it held is not known any more.
  #restarted(member: Member): void {
    this.#parts.kernel.exports.indexForget(member.row);
    member.slots.forget();
    if (member.adapters.names.length === 0) return;
    member.adapters.forget();
    this.#adaptersChanged(member);
  }

  #adaptersChanged({ row, adapters }: Member): void {
    this.#adapters.setHeld(row, adapters.names.map((name) => adapterNumber(name)));
    this.#parts.changed();
  }

  #listed(member: Member, text: string): void {
    const models = readModels(text);
    if (models === undefined || JSON.stringify(models) === JSON.stringify(member.models)) return;
    member.models = models;
    this.#adapters.setListed(member.row, member.listedAdapters.map(({ id }) => adapterNumber(id)));
    this.#parts.changed();
  }

  #rest(member: Member): void {
    const why = member.asleep ? "it is asleep" : member.paused ? "it is paused" : undefined;
    this.#parts.health.rest(member, why);
  }

  #asked(member: Member, text: string | null, probeMs: number): void {
    if (text === null) return this.#measured(member, {}, probeMs, true);
    const { cost } = member;
    cost.metricsMs += COST_PACE * (Math.max(0, probeMs - cost.healthMs) - cost.metricsMs);
    member.metricsAt = member.readAt = this.#parts.clock.now();
    const signals = member.engine?.signals(text, member.ranks > 1 ? member.spec.rank : undefined) ?? {};
    this.#measured(member, signals, probeMs, true);
    this.#parts.measured(member, signals, probeMs);
  }

  /** Another gateway has asked for its metrics. */
  heard(member: Member, signals: EngineSignals, { ageMs, costMs }: Omit<EngineReport, "signals">): void {
    const readAt = this.#parts.clock.now() - ageMs;
    // It was overtaken on its way.
    if (readAt <= member.readAt) return;
    member.cost.metricsMs = costMs;
    member.metricsAt = member.readAt = readAt;
    this.#measured(member, signals, ageMs, false);
  }

  /** @param own Whether this gateway has asked, in order. */
  #measured(member: Member, signals: EngineSignals, ageMs: number, own: boolean): void {
    const { clock, table, kernel } = this.#parts;
    const nowMs = clock.shared();
    const { waiting, running, kvUsage } = signals;
    table.setGauges(member.row, { waiting: waiting ?? NaN, running: running ?? NaN, kvUsage: kvUsage ?? NaN });
    // The count is of a moment since the engine was asked: who was sent after that is not in it.
    const done = this.#hidden.observe(member.row, waiting ?? NaN, nowMs - ageMs, nowMs);
    this.#limitSlots(member, signals, nowMs - ageMs, nowMs);
    if (done > 0 || waiting === 0) kernel.exports.fill(member.clusterRow, member.row, nowMs);
    if (signals.kvCapacityTokens !== undefined) {
      member.kvTokens = signals.kvCapacityTokens;
      table.setCapacity(member.row, this.#parts.chunks(signals.kvCapacityTokens));
    }
    this.#progressed(member, signals, nowMs - ageMs, own);
    if (signals.adapters && member.adapters.seen(signals.adapters)) this.#adaptersChanged(member);
    if (signals.asleep !== undefined) {
      member.asleep = signals.asleep;
      this.#rest(member);
    }
    if (signals.prefixTokens) this.#hint.found(signals.prefixTokens.hit, member);
    member.prefixTokens = signals.prefixTokens ?? member.prefixTokens;
  }

  #limitSlots({ row, slots }: Member, signals: EngineSignals, atMs: number, nowMs: number): void {
    const { waiting, running, generatedTokens: generated } = signals;
    const { table } = this.#parts;
    const { queue, prediction } = this.#parts.config();
    const step = queue.room_tokens * prediction.bytes_per_token;
    const limit = slots.observe({
      waiting,
      running,
      remote: table.remoteRequests(row),
      prefilling: table.uncachedBytes(row) + table.remotePromptBytes(row) >= step,
      oldestMs: this.#hidden.oldestMs(row, atMs, nowMs),
      generated,
      atMs: nowMs,
    });
    table.limits.set(row, "slots", limit);
  }

  // Counts that grow say that it computes, one that fell that it was restarted.
  #progressed(
    member: Member,
    { promptTokens = NaN, generatedTokens = NaN, startTime = NaN }: EngineSignals,
    atMs: number,
    own: boolean,
  ) {
    // A page that is missing for once tells nothing. Others' pages may be a little older than they seem.
    const fell = own && promptTokens < member.promptTokens;
    const later = startTime - member.startTime;
    if (fell || later > 1 || (own && later < -1)) this.#restarted(member);
    if (generatedTokens > member.generatedTokens || promptTokens > member.promptTokens) {
      this.#pulse.hear(member.row, atMs);
    }
    if (generatedTokens >= 0) this.#pulse.setTells(member.row);
    const older = !own && promptTokens < member.promptTokens;
    if (!Number.isNaN(promptTokens) && !older) member.promptTokens = promptTokens;
    if (!Number.isNaN(generatedTokens)) member.generatedTokens = generatedTokens;
    if (!Number.isNaN(startTime)) member.startTime = startTime;
  }
}
