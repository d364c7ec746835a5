// SPDX-License-Identifier: Apache-2.0
// Asks every endpoint for its health and its metrics, a bounded number at a time. Only a failed connection or a 5xx
// counts against an endpoint: an engine without /health or /metrics serves all the same, with unknown gauges.

import type { Address } from "../base/address.ts";
import type { Clock } from "../base/clock.ts";
import { TimeLimit } from "../base/time_limit.ts";

export interface ProbeTarget {
  /** URL to ask for health; undefined when there is none: that the address accepts a connection is enough. */
  readonly healthUrl: string | undefined;
  /** URL of the Prometheus text; undefined for none. */
  readonly metricsUrl: string | undefined;
  readonly address: Address;
}

export interface ProbeResult {
  /** undefined: not asked in this round. */
  healthy?: boolean;
  /** The metrics text; undefined when not asked, null when the engine gave none. */
  metrics?: string | null;
  /** How long the question for the metrics was under way. */
  ms: number;
}

export interface ProberOptions {
  healthIntervalMs: number;
  metricsIntervalMs: number;
  timeoutMs: number;
  concurrency: number;
}

interface Schedule<T> {
  target: T;
  healthDue: number;
  metricsDue: number;
  busy: boolean;
}

export class Prober<T extends ProbeTarget> {
  readonly #schedules = new Map<T, Schedule<T>>();
  #underWay = 0;
  #cancel: () => void = () => {};
  #stopped = false;
  readonly #abort = new AbortController();

  constructor(
    readonly options: ProberOptions,
    readonly clock: Clock,
    readonly report: (target: T, result: ProbeResult) => void,
    readonly fetcher: typeof fetch = fetch,
  ) {}

  add(target: T): void {
    const now = this.clock.now();
    this.#schedules.set(target, { target, healthDue: now, metricsDue: now, busy: false });
  }

  remove(target: T): void {
    this.#schedules.delete(target);
  }

  start(): void {
    this.#tick();
  }

  stop(): void {
    this.#stopped = true;
    this.#cancel();
    this.#abort.abort();
  }

  readonly #tick = (): void => {
    if (this.#stopped) return;
    const now = this.clock.now();
    for (const schedule of this.#schedules.values()) {
      if (this.#underWay >= this.options.concurrency) break;
      if (schedule.busy || (schedule.healthDue > now && schedule.metricsDue > now)) continue;
      // Behind the others: those that are always due because they are silent must not keep them waiting.
      this.#schedules.delete(schedule.target);
      this.#schedules.set(schedule.target, schedule);
      this.#probe(schedule, now);
    }
    const interval = Math.min(this.options.healthIntervalMs, this.options.metricsIntervalMs);
    this.#cancel = this.clock.after(Math.max(5, Math.min(50, interval / 4)), this.#tick);
  };

  async #probe(schedule: Schedule<T>, now: number): Promise<void> {
    schedule.busy = true;
    this.#underWay++;
    const { healthUrl, metricsUrl, address } = schedule.target;
    const result: ProbeResult = { ms: 0 };
    if (schedule.healthDue <= now) {
      schedule.healthDue = now + this.options.healthIntervalMs;
      if (healthUrl === undefined) result.healthy = await this.#connects(address);
      else {
        const answer = await this.#get(healthUrl);
        result.healthy = answer !== undefined && answer.status < 500;
      }
    }
    const measure = schedule.metricsDue <= now;
    if (measure) schedule.metricsDue = now + this.options.metricsIntervalMs;
    if (measure && result.healthy !== false) {
      const began = this.clock.now();
      const answer = metricsUrl === undefined ? undefined : await this.#get(metricsUrl);
      result.ms = this.clock.now() - began;
      result.metrics = answer?.status === 200 ? answer.text : null;
    }
    this.#underWay--;
    schedule.busy = false;
    if (!this.#stopped && this.#schedules.has(schedule.target)) this.report(schedule.target, result);
  }

  async #connects(address: Address): Promise<boolean> {
    using limit = new TimeLimit(this.#abort.signal, this.options.timeoutMs);
    try {
      (await Deno.connect({ ...address, signal: limit.signal })).close();
      return true;
    } catch {
      return false;
    }
  }

  async #get(url: string): Promise<{ status: number; text: string } | undefined> {
    using limit = new TimeLimit(this.#abort.signal, this.options.timeoutMs);
    try {
      const response = await this.fetcher(url, { signal: limit.signal });
      return { status: response.status, text: await response.text() };
    } catch {
      return undefined;
    }
  }
}
