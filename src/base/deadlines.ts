// SPDX-License-Identifier: Apache-2.0
// Many coarse deadlines on one timer. Setting one is a store, not a timer: a stream that renews its deadline with every
// chunk costs nothing for it. Resolution is one tick.

import type { Clock } from "./clock.ts";

/** Something that may run out of time. */
export interface Deadline {
  /** When it expires, in the clock's `now`; Infinity for never. */
  deadline: number;
  /** Called once, after which it is watched no more. */
  expire(): void;
}

export class Deadlines {
  readonly #watched = new Set<Deadline>();
  #ticking = false;

  constructor(readonly clock: Clock, readonly tickMs = 50) {}

  watch(item: Deadline): void {
    this.#watched.add(item);
    if (this.#ticking) return;
    this.#ticking = true;
    this.clock.after(this.tickMs, this.#tick);
  }

  unwatch(item: Deadline): void {
    this.#watched.delete(item);
  }

  get size(): number {
    return this.#watched.size;
  }

  readonly #tick = (): void => {
    const now = this.clock.now();
    for (const item of this.#watched) {
      if (item.deadline > now) continue;
      this.#watched.delete(item);
      item.expire();
    }
    if (this.#watched.size > 0) this.clock.after(this.tickMs, this.#tick);
    else this.#ticking = false;
  };
}
