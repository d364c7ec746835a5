// SPDX-License-Identifier: Apache-2.0
// Time as a parameter: production passes `systemClock`, tests and simulations a clock that they move by hand.

export interface Clock {
  /** Monotonic milliseconds; differences only. */
  now(): number;
  /** Milliseconds since the epoch. */
  wall(): number;
  /** Milliseconds since the epoch that never step back and are finer: for times that threads compare. */
  shared(): number;
  /** Calls back once after `ms`; returns a function that cancels it. */
  after(ms: number, callback: () => void): () => void;
}

export const systemClock: Clock = {
  now: () => performance.now(),
  wall: () => Date.now(),
  shared: () => performance.timeOrigin + performance.now(),
  after(ms, callback) {
    const timer = setTimeout(callback, ms);
    return () => clearTimeout(timer);
  },
};

interface Timer {
  at: number;
  sequence: number;
  callback: () => void;
}

/** A clock that stands still until `advance` is called; due callbacks run in order of their time. */
export class ManualClock implements Clock {
  #now = 0;
  #sequence = 0;
  #timers: Timer[] = [];

  constructor(readonly epochMs = 0) {}

  now(): number {
    return this.#now;
  }

  wall(): number {
    return this.epochMs + this.#now;
  }

  shared(): number {
    return this.wall();
  }

  after(ms: number, callback: () => void): () => void {
    const timer = { at: this.#now + Math.max(0, ms), sequence: this.#sequence++, callback };
    this.#timers.push(timer);
    return () => {
      const index = this.#timers.indexOf(timer);
      if (index >= 0) this.#timers.splice(index, 1);
    };
  }

  /** Moves time on by `ms`, running what falls due on the way. */
  advance(ms: number): void {
    const end = this.#now + ms;
    for (;;) {
      let next: Timer | undefined;
      for (const timer of this.#timers) {
        if (timer.at > end) continue;
        if (!next || timer.at < next.at || (timer.at === next.at && timer.sequence < next.sequence)) next = timer;
      }
      if (!next) break;
      this.#timers.splice(this.#timers.indexOf(next), 1);
      this.#now = next.at;
      next.callback();
    }
    this.#now = end;
  }
}
