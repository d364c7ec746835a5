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

interface Chart {
  readonly health: EndpointHealth;
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
  readonly #charts = new Map<P, Chart>();
  readonly #clusters = new Map<string, P[]>();
  #cancel: () => void = () => {};

  constructor(readonly parts: FleetHealthParts<P>) {
    this.table = parts.table;
    this.config = parts.config;
    this.clock = parts.clock;
  }

  /** Takes a patient up; one that `joins` the others is scored with their mean load at first. */
  add(patient: P, joins: boolean): void {
    this.#charts.set(patient, {
      health: new EndpointHealth(limitsOf(this.config), joins ? this.clock.now() : undefined),
      answered: 0,
      refused: false,
      wasRefused: false,
      backedOffUntil: 0,
      why: "",
    });
    this.#clusters.set(patient.cluster, [...this.#clusters.get(patient.cluster) ?? [], patient]);
  }

  remove(patient: P): void {
    this.#charts.delete(patient);
    const others = this.#clusters.get(patient.cluster)!.filter((other) => other !== patient);
    if (others.length > 0) this.#clusters.set(patient.cluster, others);
    else this.#clusters.delete(patient.cluster);
  }

  /** Other limits hold from now on. */
  configure(config: Config): void {
    this.config = config;
    for (const { health } of this.#charts.values()) health.limits = limitsOf(config);
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
    for (const patients of this.#clusters.values()) {
      const ward = this.#count(patients);
      for (const patient of patients) this.#look(patient, ward, now);
      this.#panic(patients, ward);
      this.#slowStart(patients, now);
    }
    this.#cancel = this.clock.after(WATCH_MS, this.#watch);
  };

  // When so few are left, those are asked too whose probes fail, but who listen: refusing all is no better.
  #panic(patients: P[], ward: Ward): void {
    const panics = this.#panics(ward);
    for (const patient of patients) {
      if (this.of(patient).state !== "unhealthy") continue;
      const serves = panics && this.#listens(patient);
      if (!this.table.setPanic(patient.row, serves)) continue;
      const { cluster, name } = patient;
      if (serves) {
        this.parts.log.warn("unhealthy endpoint serves: too few others are left", { cluster, endpoint: name });
      }
    }
  }

  // Somebody is there who may answer.
  #listens(patient: P): boolean {
    const { refused, health } = this.#charts.get(patient)!;
    return !refused && !health.resting;
  }

  #panics({ available, size }: Ward): boolean {
    return available * 100 < this.config.outliers.panic_percent * size;
  }

  #count(patients: P[]): Ward {
    const ward: Ward = { size: patients.length, available: 0, out: 0 };
    for (const patient of patients) tally(ward, this.of(patient).state, 1);
    return ward;
  }

  #look(patient: P, ward: Ward, now: number): void {
    const chart = this.#charts.get(patient)!;
    const { row } = patient;
    const counts = {
      failures: this.table.failures(row),
      successes: this.table.successes(row),
      requests: this.table.requests(row),
    };
    // One more may go when enough others are left: never the last.
    const maxOut = Math.floor(ward.size * this.config.outliers.max_ejected_percent / 100);
    const maySpare = ward.out < maxOut && ward.available > 1;
    const before = chart.health.state;
    const offer = chart.health.counted(counts, now, maySpare, ward.available === 0);
    if (chart.health.state !== before) {
      tally(ward, before, -1);
      tally(ward, chart.health.state, 1);
    }
    if (offer && chart.health.state === "trial") this.table.clearFailures(row);
    this.#apply(patient, `${counts.failures} failures in a row`);
    if (offer && chart.health.state === "trial") this.table.setState(row, EndpointState.trial);
    this.parts.looked(patient);
    const ms = this.table.takeBackOff(row);
    if (ms > 0) chart.backedOffUntil = Math.max(chart.backedOffUntil, now + ms);
    else if (chart.backedOffUntil <= now && this.table.backedOff(row)) this.table.endBackOff(row);
  }

  #apply(patient: P, why: string): void {
    const { cluster, name, row } = patient;
    const state = this.of(patient).state;
    const before = this.table.state(row);
    const after = STATES[state];
    if (before === after) return;
    this.#charts.get(patient)!.why = why;
    if (after === EndpointState.available) {
      this.table.clearFailures(row);
      if (before === EndpointState.unhealthy && this.#charts.get(patient)!.wasRefused) this.parts.returned(patient);
    }
    // The last one does not stop serving for a moment.
    const panic = after === EndpointState.unhealthy && this.#listens(patient) &&
      this.#panics(this.#count(this.#clusters.get(cluster)!));
    this.table.setState(row, after, panic);
    const level = state === "available" || state === "trial" ? "info" : "warn";
    this.parts.log[level](`endpoint is ${state}`, { cluster, endpoint: name, why });
  }

  // A newcomer with an empty queue would get every request until it is as loaded as the others.
  #slowStart(patients: P[], now: number): void {
    const { slow_start_ms } = this.config.outliers;
    let sum: number | undefined;
    let count = 0;
    for (const patient of patients) {
      const progress = slow_start_ms === 0 ? 1 : (now - this.of(patient).availableSince) / slow_start_ms;
      if (progress < 1 && sum === undefined) {
        const others = patients.filter((other) => this.of(other).state === "available");
        count = others.length;
        sum = others.reduce((total, other) => total + this.#requests(other), 0);
      }
      const own = this.of(patient).state === "available" ? 1 : 0;
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

/** A cluster's states, counted. */
interface Ward {
  readonly size: number;
  available: number;
  /** Ejected or on trial. */
  out: number;
}

function tally(ward: Ward, state: Health, by: number): void {
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
