// SPDX-License-Identifier: Apache-2.0
// The health of one endpoint, from what probes and requests tell; pure, time is a parameter.
//
//   available ─ failures in a row ─► ejected ─ time ─► trial ─ one request answered ─► available
//       ▲   └─ probes fail ─► unhealthy ─ probes succeed ─┐  └─ it failed ─► ejected, twice as long
//       └────────────────────────────────────────────────┘
//
// Draining is the operator's, and of one that has left the fleet: it takes nothing new until it is resumed, or back.

export interface HealthLimits {
  /** Failures in a row that eject; 0 for never. */
  consecutiveFailures: number;
  ejectMs: number;
  maxEjectMs: number;
  /** Probes in a row that change the state. */
  unhealthyAfter: number;
  healthyAfter: number;
}

export type Health = "available" | "unhealthy" | "ejected" | "trial" | "draining";

/** What the workers counted on an endpoint. */
export interface HealthCounts {
  /** Failures since the last success. */
  failures: number;
  /** Successes ever. */
  successes: number;
  /** Requests that it carries now. */
  requests: number;
}

export class EndpointHealth {
  #state: Health = "available";
  #failedProbes = 0;
  #goodProbes = 0;
  #probesFail = false;
  #draining = false;
  #left = false;
  #resting = false;
  #ejections = 0;
  #until = 0;
  #availableSince: number;
  #successesBefore = 0;
  #offeredAt = 0;

  /** @param joined When it joined others that are at work; undefined when it was there from the start. */
  constructor(public limits: HealthLimits, joined?: number) {
    this.#availableSince = joined ?? -Infinity;
  }

  get state(): Health {
    return this.#draining || this.#left ? "draining" : this.#probesFail || this.#resting ? "unhealthy" : this.#state;
  }

  /** Ejections in a row: each doubles the time of the next. */
  get ejections(): number {
    return this.#ejections;
  }

  /** When it last came back; -Infinity when it has been there from the start. */
  get availableSince(): number {
    return this.#availableSince;
  }

  drain(): void {
    this.#draining = true;
  }

  resume(): void {
    this.#draining = false;
  }

  leave(): void {
    this.#left = true;
  }

  join(now: number): void {
    this.#left = false;
    this.#availableSince = now;
  }

  /** It says that it is asleep or paused, and answers nothing. */
  get resting(): boolean {
    return this.#resting;
  }

  /** It says so, or no longer. */
  rest(resting: boolean, now: number): void {
    if (this.#resting && !resting && !this.#probesFail) this.#come(now);
    this.#resting = resting;
  }

  /** A probe was answered or failed. */
  probed(healthy: boolean, now: number): void {
    if (healthy) {
      this.#failedProbes = 0;
      if (!this.#probesFail || ++this.#goodProbes < this.limits.healthyAfter) return;
      this.#probesFail = false;
      this.#come(now);
    } else {
      this.#goodProbes = 0;
      if (++this.#failedProbes >= this.limits.unhealthyAfter) this.#probesFail = true;
    }
  }

  /**
   * Looks at the counts. `mayEject` says whether the cluster can spare it, `needed` that it has nobody else. Returns "offer" when an endpoint on trial has
   * lost its request without a result: another may be tried.
   */
  counted(counts: HealthCounts, now: number, mayEject: boolean, needed = false): "offer" | undefined {
    switch (this.#state) {
      case "available": {
        const { consecutiveFailures, maxEjectMs } = this.limits;
        if (consecutiveFailures > 0 && counts.failures >= consecutiveFailures && mayEject) this.#eject(now);
        else if (counts.failures === 0 && now - this.#availableSince > 2 * Math.min(this.#time(), maxEjectMs)) {
          this.#ejections = 0;
        }
        return undefined;
      }
      case "ejected":
        if (now < this.#until && !needed) return undefined;
        this.#state = "trial";
        this.#successesBefore = counts.successes;
        this.#offeredAt = now;
        return "offer";
      case "trial":
        if (counts.successes !== this.#successesBefore) this.#come(now);
        else if (counts.failures > 0) this.#eject(now);
        else if (counts.requests === 0 || now - this.#offeredAt >= this.limits.ejectMs) {
          // Its request was lost without a result; older ones may go on for long.
          this.#offeredAt = now;
          return "offer";
        }
        return undefined;
      default:
        return undefined;
    }
  }

  #come(now: number): void {
    this.#state = "available";
    this.#availableSince = now;
  }

  #eject(now: number): void {
    this.#ejections++;
    this.#state = "ejected";
    this.#until = now + this.#time();
  }

  #time(): number {
    return Math.min(this.limits.maxEjectMs, this.limits.ejectMs * 2 ** Math.max(0, this.#ejections - 1));
  }
}
