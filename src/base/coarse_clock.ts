// SPDX-License-Identifier: Apache-2.0
// Recurring work of many parts on one wake-up: waking a thread costs more than most of what it is woken for.

import type { Clock } from "./clock.ts";

/**
 * The same time as `clock`; what waits for `gridMs` or longer is called at the nearest of common moments, `gridMs` apart,
 * all of one moment in one go. Shorter waits are left as they are. `late` is told how late each moment was.
 */
export function coarse(clock: Clock, gridMs: number, late: (ms: number) => void = () => {}): Clock {
  const moments = new Map<number, Moment>();
  const come = (at: number): void => {
    const { due } = moments.get(at)!;
    moments.delete(at);
    late(Math.max(0, clock.now() - at));
    for (const callback of due) {
      try {
        callback();
      } catch (error) {
        // The others are called all the same; this one is reported as any that a timer called.
        clock.after(0, () => {
          throw error;
        });
      }
    }
  };
  return {
    now: clock.now,
    wall: clock.wall,
    shared: clock.shared,
    after(ms, callback) {
      if (ms < gridMs) return clock.after(ms, callback);
      const now = clock.now();
      const at = Math.round((now + ms) / gridMs) * gridMs;
      let moment = moments.get(at);
      if (moment === undefined) {
        moments.set(at, moment = { due: new Set(), cancel: clock.after(at - now, () => come(at)) });
      }
      const { due, cancel } = moment;
      // One callback may be asked for twice.
      const once = () => callback();
      due.add(once);
      return () => {
        if (!due.delete(once) || due.size > 0 || moments.get(at)?.due !== due) return;
        moments.delete(at);
        cancel();
      };
    },
  };
}

/** What is to be called at a moment, and what takes the moment back. */
interface Moment {
  readonly due: Set<() => void>;
  readonly cancel: () => void;
}
