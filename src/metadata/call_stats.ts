// SPDX-License-Identifier: Apache-2.0
// How many calls a gateway made to its centers, and how long they took.

import { Histogram } from "../telemetry/histogram.ts";

/** Bounds in microseconds, as the Go gateway has them. */
export const CALL_BUCKETS_US: readonly number[] = Array.from({ length: 12 }, (_, i) => 100 * 2 ** i);

/** Answered calls of one kind; `instance` is the center's address. */
export interface CallStats {
  readonly labels: { readonly instance: string; readonly method: string; readonly path: string };
  readonly duration: Histogram;
  count: number;
}

export class CallCounter {
  readonly #calls = new Map<string, CallStats>();

  answered(instance: string, method: string, path: string, ms: number): void {
    const key = `${instance} ${method} ${path}`;
    let stats = this.#calls.get(key);
    if (!stats) {
      stats = { labels: { instance, method, path }, duration: new Histogram(CALL_BUCKETS_US), count: 0 };
      this.#calls.set(key, stats);
    }
    stats.count++;
    stats.duration.observe(ms * 1_000);
  }

  /** Forgets the calls to centers that are no longer there. */
  keep(instances: ReadonlySet<string>): void {
    for (const [key, { labels }] of this.#calls) if (!instances.has(labels.instance)) this.#calls.delete(key);
  }

  view(): CallStats[] {
    return [...this.#calls.values()];
  }
}
