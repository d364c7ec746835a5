// SPDX-License-Identifier: Apache-2.0
// Applies the endpoints' health to their rows: who serves, who is on trial, who is backed off, and who has just come back
// and is scored with the mean load of its cluster for a while.

import type { Config } from "../config/schema.ts";
import type { Clock } from "../base/clock.ts";
import type { ProbeResult } from "../engines/prober.ts";
import { EndpointHealth, type Health, type HealthLimits } from "../engines/health.ts";
import { EndpointState, type EndpointTable } from "../tables/endpoint_table.ts";
import type { Log } from "../telemetry/log.ts";

/** An endpoint as far as its health goes. */
export interface Patient {
  readonly cluster: string;
  /** HOST:PORT */
  readonly name: string;
  readonly row: number;
}

interface Chart<P extends Patient> {
  readonly patient: P;
  readonly health: EndpointHealth;
  readonly ward: Ward<P>;
  /** As its ward counts it. */
  state: Health;
  /** It serves as all do, and nothing about it changes with time: it is looked at when a worker tells of it. */
  steady: boolean;
  /** Requests that it had answered at the last probe. */
  answered: number;
  /** Whether nobody listened at the last probe, and at one since it was last healthy. */
  refused: boolean;
  wasRefused: boolean;
  /** Until when it is backed off. */
  backedOffUntil: number;
  /** What made its state what it is. */
  why: string;
}

/** What a probe told. */
export type Probed = Pick<ProbeResult, "failure" | "why"> & { readonly healthy: boolean };

/** How often the counts of the workers are looked at. */
const WATCH_MS = 50;

export interface FleetHealthParts<P extends Patient> {
  readonly table: EndpointTable;
  readonly config: Config;
  readonly clock: Clock;
  readonly log: Log;
  /** Is told an endpoint that serves again: what it held is not known any more. */
  returned(patient: P): void;
  /** Workers ask for what they cannot know: is told an endpoint every time that the counts are looked at. */
  looked(patient: P): void;
}

export class FleetHealth<P extends Patient> {
  readonly table: EndpointTable;
  config: Config;
  readonly clock: Clock;
  readonly #charts = new Map<P, Chart<P>>();
  readonly #wards = new Map<string, Ward<P>>();
  #cancel: () => void = () => {};

  constructor(readonly parts: FleetHealthParts<P>) {
    this.table = parts.table;
    this.config = parts.config;
    this.clock = parts.clock;
  }

  /** Takes a patient up; one that `joins` the others is scored with their mean load at first. */
  add(patient: P, joins: boolean): void {
    const { cluster } = patient;
    const ward: Ward<P> = this.#wards.get(cluster) ?? { charts: [], available: 0, out: 0 };
    this.#wards.set(cluster, ward);
    const health = new EndpointHealth(limitsOf(this.config), joins ? this.clock.now() : undefined);
    const chart: Chart<P> = {
      patient,
      health,
      ward,
      state: health.state,
      steady: false,
      answered: 0,
      refused: false,
      wasRefused: false,
      backedOffUntil: 0,
      why: "",
    };
    this.#charts.set(patient, chart);
    ward.charts.push(chart);
    tally(ward, chart.state, 1);
  }

  remove(patient: P): void {
    const chart = this.#charts.get(patient)!;
    const { ward } = chart;
    this.#charts.delete(patient);
    tally(ward, chart.state, -1);
    ward.charts.splice(ward.charts.indexOf(chart), 1);
    if (ward.charts.length === 0) this.#wards.delete(patient.cluster);
  }

  /** Other limits hold from now on. */
  configure(config: Config): void {
    this.config = config;
    for (const chart of this.#charts.values()) {
      chart.health.limits = limitsOf(config);
      chart.steady = false;
    }
  }

  /** It is in the fleet no more: it finishes what it has. */
  leave(patient: P): void {
    this.of(patient).leave();
    this.#apply(patient, "it left the fleet");
  }

  /** It is back. */
  join(patient: P): void {
    this.of(patient).join(this.clock.now());
    this.#apply(patient, "it is back in the fleet");
  }

  start(): void {
    this.#watch();
  }

  stop(): void {
    this.#cancel();
  }

  /** Why a patient does not serve as others do; empty when it does. */
  whyOf(patient: P): string {
    return this.of(patient).state === "available" ? "" : this.#charts.get(patient)!.why;
  }

  of(patient: P): EndpointHealth {
    return this.#charts.get(patient)!.health;
  }

  /** Takes note of a probe. An engine that answers requests is not unhealthy because it is slow to say so. */
  probed(patient: P, { healthy, failure, why = "its probes failed" }: Probed): void {
    const chart = this.#charts.get(patient)!;
    const answered = this.table.successes(patient.row);
    const alive = healthy || (failure === "silent" && answered !== chart.answered);
    chart.answered = answered;
    chart.refused = failure === "refused";
    chart.wasRefused ||= chart.refused;
    chart.health.probed(alive, this.clock.now());
    this.#apply(patient, healthy ? "its probe was answered" : alive ? "it answered requests" : why);
    if (alive) chart.wasRefused = false;
  }

  /** Its engine says that it is asleep or paused, or no longer: `why` is undefined then. */
  rest(patient: P, why: string | undefined): void {
    const health = this.of(patient);
    if (health.resting === (why !== undefined)) return;
    health.rest(why !== undefined, this.clock.now());
    this.#apply(patient, why ?? "it is awake again");
  }

  drain(patient: P): void {
    this.of(patient).drain();
    this.#apply(patient, "asked for");
  }

  resume(patient: P): void {
    this.of(patient).resume();
    this.#apply(patient, "asked for");
  }

  readonly #watch = (): void => {
    const now = this.clock.now();
    for (const ward of this.#wards.values()) {
      for (const chart of ward.charts) {
        if (!chart.steady || !this.table.quiet(chart.patient.row)) this.#look(chart, now);
      }
      if (ward.available < ward.charts.length) this.#panic(ward);
      this.#slowStart(ward, now);
    }
    this.#cancel = this.clock.after(WATCH_MS, this.#watch);
  };

  // When so few are left, those are asked too whose probes fail, but who listen: refusing all is no better.
  #panic(ward: Ward<P>): void {
    const panics = this.#panics(ward);
    for (const chart of ward.charts) {
      if (chart.state !== "unhealthy") continue;
      const serves = panics && this.#listens(chart);
      const { cluster, name, row } = chart.patient;
      if (this.table.setPanic(row, serves) && serves) {
        this.parts.log.warn("unhealthy endpoint serves: too few others are left", { cluster, endpoint: name });
      }
    }
  }

  // Somebody is there who may answer.
  #listens({ refused, health }: Chart<P>): boolean {
    return !refused && !health.resting;
  }

  #panics({ available, charts }: Ward<P>): boolean {
    return available * 100 < this.config.outliers.panic_percent * charts.length;
  }

  #look(chart: Chart<P>, now: number): void {
    const { patient, health, ward } = chart;
    const { row } = patient;
    const counts = {
      failures: this.table.failures(row),
      successes: this.table.successes(row),
      requests: this.table.requests(row),
    };
    // One more may go when enough others are left: never the last.
    const maxOut = Math.floor(ward.charts.length * this.config.outliers.max_ejected_percent / 100);
    const maySpare = ward.out < maxOut && ward.available > 1;
    const offer = health.counted(counts, now, maySpare, ward.available === 0);
    if (offer && health.state === "trial") this.table.clearFailures(row);
    this.#apply(patient, `${counts.failures} failures in a row`);
    if (offer && health.state === "trial") this.table.setState(row, EndpointState.trial);
    this.parts.looked(patient);
    const ms = this.table.takeBackOff(row);
    if (ms > 0) chart.backedOffUntil = Math.max(chart.backedOffUntil, now + ms);
    else if (chart.backedOffUntil <= now && this.table.backedOff(row)) this.table.endBackOff(row);
    chart.steady = health.state === "available" && health.ejections === 0 && counts.failures === 0 &&
      !this.table.backedOff(row) && chart.backedOffUntil <= now &&
      now - health.availableSince >= this.config.outliers.slow_start_ms &&
      this.table.penalty(row) === 0;
  }

  #apply(patient: P, why: string): void {
    const { cluster, name, row } = patient;
    const chart = this.#charts.get(patient)!;
    const { ward, health: { state } } = chart;
    // Whatever was told of it may have begun something that goes on with time.
    chart.steady = false;
    if (chart.state !== state) {
      tally(ward, chart.state, -1);
      tally(ward, state, 1);
      chart.state = state;
    }
    const before = this.table.state(row);
    const after = STATES[state];
    if (before === after) return;
    chart.why = why;
    if (after === EndpointState.available) {
      this.table.clearFailures(row);
      if (before === EndpointState.unhealthy && chart.wasRefused) this.parts.returned(patient);
    }
    // The last one does not stop serving for a moment.
    const panic = after === EndpointState.unhealthy && this.#listens(chart) && this.#panics(ward);
    this.table.setState(row, after, panic);
    const level = state === "available" || state === "trial" ? "info" : "warn";
    this.parts.log[level](`endpoint is ${state}`, { cluster, endpoint: name, why });
  }

  // A newcomer with an empty queue would get every request until it is as loaded as the others.
  #slowStart({ charts }: Ward<P>, now: number): void {
    const { slow_start_ms } = this.config.outliers;
    let sum: number | undefined;
    let count = 0;
    for (const { steady, state, health, patient } of charts) {
      if (steady) continue;
      const progress = slow_start_ms === 0 ? 1 : (now - health.availableSince) / slow_start_ms;
      if (progress < 1 && sum === undefined) {
        const others = charts.filter((other) => other.state === "available");
        count = others.length;
        sum = others.reduce((total, other) => total + this.#requests(other.patient), 0);
      }
      const own = state === "available" ? 1 : 0;
      const mean = progress >= 1 || count <= own ? 0 : (sum! - own * this.#requests(patient)) / (count - own);
      const penalty = progress < 1 ? Math.ceil(mean * (1 - progress)) : 0;
      if (this.table.penalty(patient.row) !== penalty) this.table.setPenalty(patient.row, penalty);
    }
  }

  #requests({ row }: P): number {
    return this.table.requests(row) + this.table.remoteRequests(row);
  }
}

function limitsOf({ outliers, probes }: Config): HealthLimits {
  return {
    consecutiveFailures: outliers.enabled ? outliers.consecutive_failures : 0,
    ejectMs: outliers.eject_ms,
    maxEjectMs: outliers.max_eject_ms,
    unhealthyAfter: probes.unhealthy_after,
    healthyAfter: probes.healthy_after,
  };
}

/** A cluster's endpoints, and their states counted. */
interface Ward<P extends Patient> {
  readonly charts: Chart<P>[];
  available: number;
  /** Ejected or on trial. */
  out: number;
}

function tally(ward: Pick<Ward<Patient>, "available" | "out">, state: Health, by: number): void {
  if (state === "available") ward.available += by;
  else if (state === "ejected" || state === "trial") ward.out += by;
}

const STATES: Record<Health, EndpointState> = {
  available: EndpointState.available,
  unhealthy: EndpointState.unhealthy,
  ejected: EndpointState.ejected,
  trial: EndpointState.trial,
  draining: EndpointState.draining,
};
