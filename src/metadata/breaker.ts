// SPDX-License-Identifier: Apache-2.0
// Circuit breaker of one center: closed until it fails so many times in a row, open for a while, then half-open: a few
// tries, of which one failure opens it again and successes close it.

import type { Clock } from "../base/clock.ts";

export interface BreakerLimits {
  maxFailures: number;
  cooldownMs: number;
  halfOpenRequests: number;
}

export type BreakerState = "closed" | "half-open" | "open";

export class Breaker {
  #failures = 0;
  #openedAt: number | undefined;
  #tries = 0;
  #triedAt = -Infinity;
  #successes = 0;

  constructor(readonly clock: Clock, readonly limits: BreakerLimits) {}

  get state(): BreakerState {
    if (this.#openedAt === undefined) return "closed";
    return this.clock.now() - this.#openedAt >= this.limits.cooldownMs ? "half-open" : "open";
  }

  /** Whether a request may be tried now. */
  allow(): boolean {
    const { state } = this;
    if (state !== "half-open") return state === "closed";
    // Tries of which nobody has heard for as long are lost: others may find out.
    if (this.clock.now() - this.#triedAt >= this.limits.cooldownMs) this.#tries = this.#successes = 0;
    return this.#tries < this.limits.halfOpenRequests;
  }

  /** A request is tried: it counts against the half-open tries. */
  began(): void {
    if (this.state !== "half-open") return;
    this.#tries++;
    this.#triedAt = this.clock.now();
  }

  succeeded(): void {
    this.#failures = 0;
    if (this.#openedAt !== undefined && ++this.#successes >= this.limits.halfOpenRequests) this.#openedAt = undefined;
  }

  /** Closes it: something else has shown that the center is there. */
  reset(): void {
    this.#openedAt = undefined;
    this.#failures = 0;
  }

  failed(): void {
    if (this.#openedAt === undefined && ++this.#failures < this.limits.maxFailures) return;
    this.#openedAt = this.clock.now();
    this.#failures = this.#tries = this.#successes = 0;
  }
}
