// SPDX-License-Identifier: Apache-2.0
// Many coarse deadlines on one timer. Setting one is a store, not a timer: a stream that renews its deadline with every
// chunk costs nothing for it. Resolution is one tick.

import type { Clock } from "./clock.ts";
import { type Placed, PlacedList } from "./placed_list.ts";

/** Something that may run out of time. */
export interface Deadline extends Placed {
  /** When it expires, in the clock's `now`; Infinity for never. */
  deadline: number;
  /** Called once, after which it is watched no more. */
  expire(): void;
}

export class Deadlines {
  readonly #watched = new PlacedList<Deadline>();
  #cancel: (() => void) | undefined;

  constructor(readonly clock: Clock, readonly tickMs = 50) {}

  watch(item: Deadline): void {
    this.#watched.add(item);
    this.#cancel ??= this.clock.after(this.tickMs, this.#tick);
  }

  unwatch(item: Deadline): void {
    this.#watched.remove(item);
  }

  /** Stops ticking; what is watched expires no more. */
  close(): void {
    this.#cancel?.();
    this.#cancel = undefined;
  }

  get size(): number {
    return this.#watched.size;
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
      this.#cancel = this.#watched.size > 0 ? this.clock.after(this.tickMs, this.#tick) : undefined;
    }
  };
}
