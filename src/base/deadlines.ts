// SPDX-License-Identifier: Apache-2.0
// Many coarse deadlines on one timer. Setting one is a store, not a timer: a stream that renews its deadline with every
// chunk costs nothing for it. Resolution is one tick.

import type { Clock } from "./clock.ts";

/** Something that may run out of time. */
export interface Deadline {
  /** When it expires, in the clock's `now`; Infinity for never. */
  deadline: number;
  /** Its place among the watched, kept by `Deadlines`; -1 when it is not watched. */
  place: number;
  /** Called once, after which it is watched no more. */
  expire(): void;
}

export class Deadlines {
  // An array with swapped removal: a Set would hash an object three times a request.
  readonly #watched: Deadline[] = [];
  #cancel: (() => void) | undefined;

  constructor(readonly clock: Clock, readonly tickMs = 50) {}

  watch(item: Deadline): void {
    if (item.place < 0) item.place = this.#watched.push(item) - 1;
    this.#cancel ??= this.clock.after(this.tickMs, this.#tick);
  }

  unwatch(item: Deadline): void {
    const { place } = item;
    if (place < 0) return;
    const last = this.#watched.pop()!;
    if (last !== item) {
      this.#watched[place] = last;
      last.place = place;
    }
    item.place = -1;
  }

  /** Stops ticking; what is watched expires no more. */
  close(): void {
    this.#cancel?.();
    this.#cancel = undefined;
  }

  get size(): number {
    return this.#watched.length;
  }

  readonly #tick = (): void => {
    const now = this.clock.now();
    const due = this.#watched.filter((item) => item.deadline <= now);
    try {
      for (const item of due) {
        // One that expired before it may have let it go, or given it more time.
        if (item.place < 0 || item.deadline > now) continue;
        this.unwatch(item);
        item.expire();
      }
    } finally {
      // Also when one throws: the others still have their time.
      this.#cancel = this.#watched.length > 0 ? this.clock.after(this.tickMs, this.#tick) : undefined;
    }
  };
}
