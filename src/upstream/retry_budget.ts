// SPDX-License-Identifier: Apache-2.0
// How many retries there may be: a share of the requests plus a few a second, so that retries help while little is broken
// and do not double the load when much is (as in Finagle's RetryBudget). One request is worth `percent` / 100 retries,
// kept for ten seconds' worth at most.

import type { Clock } from "../base/clock.ts";

export interface RetryBudgetLimits {
  percent: number;
  minPerSecond: number;
}

const KEPT_SECONDS = 10;
/** A retry, in the hundredths that requests pay in. */
const RETRY = 100;
/** What requests may save up: a thousand retries. */
const MAX_SAVED = 1_000 * RETRY;

export class RetryBudget {
  #saved = 0;
  #reserve: number;
  #at: number;

  /** @param limits May be changed: they hold from then on. */
  constructor(public limits: RetryBudgetLimits, readonly clock: Clock) {
    this.#reserve = limits.minPerSecond;
    this.#at = clock.now();
  }

  /** A request came. */
  deposit(): void {
    this.#saved = Math.min(MAX_SAVED, this.#saved + this.limits.percent);
  }

  /** Whether a retry is left. */
  get available(): boolean {
    this.#refill();
    return this.#saved >= RETRY || this.#reserve >= 1;
  }

  /** Takes a retry; false when there is none left. */
  tryWithdraw(): boolean {
    this.#refill();
    if (this.#saved >= RETRY) this.#saved -= RETRY;
    else if (this.#reserve >= 1) this.#reserve--;
    else return false;
    return true;
  }

  #refill(): void {
    const now = this.clock.now();
    const { minPerSecond } = this.limits;
    this.#reserve = Math.min(minPerSecond * KEPT_SECONDS, this.#reserve + minPerSecond * (now - this.#at) / 1_000);
    this.#at = now;
  }
}
