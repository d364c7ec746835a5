// SPDX-License-Identifier: Apache-2.0
// What came through the gateway over the last minutes, for the page: rates and times to the first token, a sample every
// few seconds, whether anybody looks or not.

import type { Clock } from "../base/clock.ts";
import { DURATION_BUCKETS } from "../telemetry/cells.ts";

/** What has been counted so far. */
export interface TrafficTotals {
  readonly requests: number;
  readonly errors: number;
  readonly completionTokens: number;
  readonly promptTokens: number;
  readonly cachedTokens: number;
  /** First tokens of streams, by the buckets of durations. */
  readonly ttft: readonly number[];
  /** Requests that wait for an endpoint now, and how full the fullest cluster is. */
  readonly waiting: number;
  readonly saturation: number;
}

/** Of one interval; rates are by the second. */
export interface TrafficSample {
  /** Seconds since the epoch of its end. */
  readonly time: number;
  readonly requests: number;
  readonly errors: number;
  readonly tokens: number;
  /** Share of prompt tokens that came from a cache; null without any. */
  readonly cached: number | null;
  /** Seconds; null when there was no first token. */
  readonly ttft50: number | null;
  readonly ttft95: number | null;
  readonly waiting: number;
  readonly saturation: number;
}

const INTERVAL_MS = 2_000;
/** Ten minutes. */
const KEPT = 300;

export class TrafficHistory {
  readonly #samples: TrafficSample[] = [];
  readonly #listeners = new Set<(sample: TrafficSample) => void>();
  #before: { totals: TrafficTotals; at: number } | undefined;
  #cancel: () => void = () => {};

  constructor(readonly clock: Clock, readonly read: () => TrafficTotals) {}

  start(): void {
    this.sample();
    this.#cancel = this.clock.after(INTERVAL_MS, () => this.start());
  }

  stop(): void {
    this.#cancel();
  }

  get samples(): readonly TrafficSample[] {
    return this.#samples;
  }

  /** Calls back on every sample; returns what ends that. */
  listen(listener: (sample: TrafficSample) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Takes a sample of the time since the one before. */
  sample(): void {
    const totals = this.read();
    const at = this.clock.now();
    const before = this.#before;
    this.#before = { totals, at };
    if (before === undefined || at <= before.at) return;
    const seconds = (at - before.at) / 1_000;
    // A name that went took its counts along.
    const grown = (count: (of: TrafficTotals) => number) => Math.max(0, count(totals) - count(before.totals));
    const prompt = grown(({ promptTokens }) => promptTokens);
    const ttft = totals.ttft.map((count, bucket) => Math.max(0, count - before.totals.ttft[bucket]));
    const sample: TrafficSample = {
      time: Math.round(this.clock.wall() / 1_000),
      requests: grown(({ requests }) => requests) / seconds,
      errors: grown(({ errors }) => errors) / seconds,
      tokens: grown(({ completionTokens }) => completionTokens) / seconds,
      cached: prompt === 0 ? null : Math.min(1, grown(({ cachedTokens }) => cachedTokens) / prompt),
      ttft50: quantile(ttft, 0.5),
      ttft95: quantile(ttft, 0.95),
      waiting: totals.waiting,
      saturation: totals.saturation,
    };
    this.#samples.push(sample);
    if (this.#samples.length > KEPT) this.#samples.shift();
    for (const listener of this.#listeners) listener(sample);
  }
}

/** Seconds below which this share of the counts is, evenly within a bucket; null for none. */
export function quantile(counts: readonly number[], share: number): number | null {
  const all = counts.reduce((sum, count) => sum + count, 0);
  if (all === 0) return null;
  let rank = all * share;
  for (const [bucket, count] of counts.entries()) {
    if (rank > count) {
      rank -= count;
      continue;
    }
    const [from, to] = [DURATION_BUCKETS[bucket - 1] ?? 0, DURATION_BUCKETS[bucket] ?? DURATION_BUCKETS.at(-1)!];
    return count === 0 ? to : from + (to - from) * rank / count;
  }
  return DURATION_BUCKETS.at(-1)!;
}
