// SPDX-License-Identifier: Apache-2.0
// Who asks engines what, and what becomes of it: health, metrics and models of every endpoint, from this gateway's own
// questions, and metrics from those that other gateways asked, told through the metadata center.

import type { Clock } from "../base/clock.ts";
import type { Config } from "../config/schema.ts";
import { Prober } from "../engines/prober.ts";
import { readTold } from "../engines/signals.ts";
import type { EngineReport } from "../metadata/engine_report.ts";
import type { Member } from "./member.ts";
import { Reports, type ReportsParts } from "./reports.ts";

export class Probing {
  readonly #prober: Prober<Member>;
  readonly #reports: Reports;
  readonly #config: () => Config;

  constructor(parts: ReportsParts, clock: Clock) {
    this.#config = parts.config;
    this.#reports = new Reports(parts);
    this.#prober = new Prober<Member>(this.#options(), clock, this.#reports.probed);
  }

  #options() {
    const { probes } = this.#config();
    return {
      healthIntervalMs: probes.health_interval_ms,
      metricsIntervalMs: probes.metrics_interval_ms,
      metricsPaceMs: this.#reports.paceMs,
      modelsIntervalMs: probes.models_interval_ms,
      timeoutMs: probes.timeout_ms,
      concurrency: probes.concurrency,
    };
  }

  /** Another configuration is in force. */
  configure(): void {
    this.#prober.options = this.#options();
  }

  /** @param modelsAfterMs When its list of models is first asked for. */
  add(member: Member, modelsAfterMs: number): void {
    this.#prober.add(member, modelsAfterMs);
  }

  remove(member: Member): void {
    this.#prober.remove(member);
  }

  /** Its list of models is asked for at once; of all without a member. */
  list(member?: Member): void {
    this.#prober.list(member);
  }

  /** It serves again after nobody had listened. */
  returned(member: Member): void {
    this.#reports.returned(member);
  }

  /** Another gateway has asked for its metrics: they are not asked for again so soon. */
  heard(member: Member, { signals, ...report }: EngineReport): void {
    const told = readTold(signals);
    if (told === undefined) return;
    this.#prober.heard(member);
    this.#reports.heard(member, told, report);
  }

  start(): void {
    this.#prober.start();
  }

  /** Asks nothing more; resolves when what is under way has ended. */
  stop(): Promise<void> {
    return this.#prober.stop();
  }
}
