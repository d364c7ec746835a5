// SPDX-License-Identifier: Apache-2.0
// Asks every endpoint for its health, its metrics and its models, a bounded number at a time. Only a failed connection or a
// 5xx counts against an endpoint: an engine without /health or /metrics serves all the same, with unknown gauges.

import type { Clock } from "../base/clock.ts";
import { UpstreamError } from "../upstream/errors.ts";
import type { Page } from "../upstream/page_reader.ts";
import type { ProbePages } from "./engine.ts";

/** Who reads an endpoint's pages. */
export interface ProbeReader {
  /** Throws when there is no answer in time. */
  get(port: number, path: string, ms: number): Promise<Page>;
  connects(port: number, ms: number): Promise<boolean>;
}

export interface ProbeTarget {
  readonly pages: ProbePages;
  readonly port: number;
  readonly reader: ProbeReader;
}

export type ProbeFailure = "refused" | "silent" | "status";

export interface ProbeResult {
  /** undefined: not asked in this round. */
  healthy?: boolean;
  /** Why not, and what failed: nobody listens, no answer came in time, or it was one that says so. */
  why?: string;
  failure?: ProbeFailure;
  /** The metrics text; undefined when not asked, null when the engine gave none. */
  metrics?: string | null;
  /** How long the question for its health was under way; undefined when not asked. */
  healthMs?: number;
  /** The list of models; undefined when not asked, or when the engine gave none. */
  models?: string;
  /** Whether it says that it has been paused; undefined when not asked, or when it has no such page. */
  paused?: boolean;
  /** How long the question for the metrics was under way. */
  ms: number;
}

export interface ProberOptions<T> {
  healthIntervalMs: number;
  /** Least time between two questions for metrics, and the time for a target now. */
  metricsIntervalMs: number;
  metricsPaceMs?(target: T): number;
  modelsIntervalMs: number;
  timeoutMs: number;
  concurrency: number;
}

/** How long a list of models may take at least. */
const LIST_MS = 10_000;

/** Least factor by which a gateway that hears from others is more patient than they are. */
const PATIENCE = 1.25;

/** Share of the interval after which a refusal is looked at again. */
const SOON_SHARE = 0.25;

interface Schedule<T> {
  target: T;
  healthDue: number;
  /** When its metrics were asked for, here or by another gateway. */
  metricsAt: number;
  /** Times the pace that it is waited before they are asked for here. */
  patience: number;
  modelsDue: number;
  busy: boolean;
  /** Its port accepted nothing when it was asked last. */
  refused: boolean;
  listing: boolean;
  /** It has no page that says whether it is paused. */
  neverPaused: boolean;
}

export class Prober<T extends ProbeTarget> {
  readonly #schedules = new Map<T, Schedule<T>>();
  readonly #probes = new Set<Promise<void>>();
  #cancel: () => void = () => {};
  #stopped = false;

  /** @param options May be changed: they hold from the next round on. */
  constructor(
    public options: ProberOptions<T>,
    readonly clock: Clock,
    readonly report: (target: T, result: ProbeResult) => void,
  ) {}

  /** @param modelsAfterMs When its list of models is first asked for. */
  add(target: T, modelsAfterMs = 0): void {
    const now = this.clock.now();
    const modelsDue = now + modelsAfterMs;
    const idle = { busy: false, refused: false, listing: false, neverPaused: false };
    this.#schedules.set(target, { target, healthDue: now, metricsAt: -Infinity, patience: 1, modelsDue, ...idle });
  }

  /** Its list of models is asked for at once; of all without a target. */
  list(target?: T): void {
    const now = this.clock.now();
    for (const schedule of this.#schedules.values()) {
      if (target === undefined || schedule.target === target) schedule.modelsDue = now;
    }
  }

  /**
   * Its metrics have been asked for by another gateway: that one goes on, unless it falls silent. Who takes its place is
   * left to chance, so that it is one of them.
   */
  heard(target: T): void {
    const schedule = this.#schedules.get(target);
    if (schedule === undefined) return;
    schedule.metricsAt = this.clock.now();
    schedule.patience = PATIENCE + Math.random();
  }

  remove(target: T): void {
    this.#schedules.delete(target);
  }

  start(): void {
    this.#tick();
  }

  /** Asks nothing more; resolves when what is under way has ended. */
  async stop(): Promise<void> {
    this.#stopped = true;
    this.#cancel();
    await Promise.all(this.#probes);
  }

  readonly #tick = (): void => {
    if (this.#stopped) return;
    const now = this.clock.now();
    for (const schedule of this.#schedules.values()) {
      if (this.#probes.size >= this.options.concurrency) break;
      const lists = !schedule.listing && schedule.modelsDue <= now;
      const probes = !schedule.busy && (schedule.healthDue <= now || this.#measures(schedule, now));
      if (!lists && !probes) continue;
      // Behind the others: those that are always due because they are silent must not keep them waiting.
      this.#schedules.delete(schedule.target);
      this.#schedules.set(schedule.target, schedule);
      if (probes) this.#begin(this.#probe(schedule, now));
      if (lists) this.#begin(this.#list(schedule, now));
    }
    const interval = Math.min(this.options.healthIntervalMs, this.options.metricsIntervalMs);
    this.#cancel = this.clock.after(Math.max(5, Math.min(50, interval / 4)), this.#tick);
  };

  #measures({ target, metricsAt, patience }: Schedule<T>, now: number): boolean {
    const { metricsIntervalMs, metricsPaceMs } = this.options;
    const passed = (now - metricsAt) / patience;
    return passed >= metricsIntervalMs && (metricsPaceMs === undefined || passed >= metricsPaceMs(target));
  }

  #begin(probing: Promise<void>): void {
    const probe = probing.finally(() => this.#probes.delete(probe));
    this.#probes.add(probe);
  }

  #tell(schedule: Schedule<T>, result: ProbeResult): void {
    if (!this.#stopped && this.#schedules.get(schedule.target) === schedule) this.report(schedule.target, result);
  }

  // Apart from the others: it may take its time, and says nothing about health.
  async #list(schedule: Schedule<T>, now: number): Promise<void> {
    const { modelsIntervalMs, timeoutMs } = this.options;
    schedule.modelsDue = now + modelsIntervalMs;
    const { pages: { models: page, paused: pausedPage }, reader } = schedule.target;
    if (page === undefined) return;
    schedule.listing = true;
    const ms = Math.max(timeoutMs, LIST_MS);
    const models = await textOf(reader, page, ms);
    let paused: boolean | undefined;
    if (pausedPage !== undefined && models !== undefined && !schedule.neverPaused) {
      const text = await textOf(reader, pausedPage, ms);
      if (text === undefined) schedule.neverPaused = true;
      else paused = /"is_paused"\s*:\s*true/.test(text);
    }
    schedule.listing = false;
    if (models !== undefined) this.#tell(schedule, { models, ...(paused === undefined ? {} : { paused }), ms: 0 });
  }

  async #probe(schedule: Schedule<T>, now: number): Promise<void> {
    schedule.busy = true;
    const { healthIntervalMs, timeoutMs } = this.options;
    const { pages: { health, metrics }, port, reader } = schedule.target;
    const result: ProbeResult = { ms: 0 };
    if (schedule.healthDue <= now) {
      schedule.healthDue = now + healthIntervalMs;
      const began = this.clock.now();
      if (health === undefined) {
        result.healthy = await reader.connects(port, timeoutMs);
        if (!result.healthy) {
          result.failure = "refused";
          result.why = "it accepts no connection";
        }
      } else {
        try {
          const { status } = await reader.get(health.port, health.path, timeoutMs);
          result.healthy = status < 500;
          if (!result.healthy) {
            result.failure = "status";
            result.why = `${health.path} answered ${status}`;
          }
        } catch (error) {
          result.healthy = false;
          result.failure = error instanceof UpstreamError && error.failure === "connect_failed" ? "refused" : "silent";
          result.why = `${health.path}: ${(error as Error).message}`;
          schedule.neverPaused = false; // it may come back as another one
        }
      }
      result.healthMs = this.clock.now() - began;
      // Nobody listens there: it is asked once more soon, as that is how an engine that has ended looks.
      const refused = result.failure === "refused";
      if (refused && !schedule.refused) schedule.healthDue = now + healthIntervalMs * SOON_SHARE;
      schedule.refused = refused;
    }
    const measure = this.#measures(schedule, now);
    if (measure) {
      schedule.metricsAt = now;
      schedule.patience = 1;
    }
    if (measure && result.healthy !== false) {
      const began = this.clock.now();
      result.metrics = metrics === undefined ? null : await textOf(reader, metrics, timeoutMs) ?? null;
      result.ms = this.clock.now() - began;
    }
    schedule.busy = false;
    this.#tell(schedule, result);
  }
}

async function textOf(
  reader: ProbeReader,
  { port, path }: { port: number; path: string },
  timeoutMs: number,
): Promise<string | undefined> {
  try {
    const { status, text } = await reader.get(port, path, timeoutMs);
    return status === 200 ? text : undefined;
  } catch {
    return undefined;
  }
}
