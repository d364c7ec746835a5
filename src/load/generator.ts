// SPDX-License-Identifier: Apache-2.0
// Sends many requests: so many at once, or at given times whether the ones before are answered or not.

import { systemClock } from "../base/clock.ts";
import { pause } from "../base/pause.ts";
import type { Measured } from "./client.ts";

export interface Job {
  /** Ms from the beginning at which it is sent; undefined: as soon as there is a place. */
  readonly at: number | undefined;
  run(): Promise<Measured>;
}

export interface LoadResult {
  readonly measured: readonly Measured[];
  readonly seconds: number;
  /** Most ms that a request was sent after its time, because there was no place. */
  readonly latestMs: number;
}

const NEVER = new AbortController().signal;

/**
 * @param concurrency Most requests under way.
 * @param progress Is told how many have ended, and how many of them failed.
 * @param stop Ends the sending; what is under way is waited for.
 */
export async function sendAll(
  jobs: Iterable<Job>,
  concurrency: number,
  progress: (ended: number, failed: number) => void,
  stop: AbortSignal = NEVER,
): Promise<LoadResult> {
  const began = performance.now();
  const measured: Measured[] = [];
  const underWay = new Set<Promise<void>>();
  let [failed, latestMs] = [0, 0];
  const stopped = Promise.withResolvers<void>();
  stop.addEventListener("abort", () => stopped.resolve(), { once: true });
  for (const job of jobs) {
    while (underWay.size >= concurrency && !stop.aborted) await Promise.race([stopped.promise, ...underWay]);
    if (job.at !== undefined && !stop.aborted) {
      const waitMs = job.at - (performance.now() - began);
      if (waitMs > 0) await pause(waitMs, systemClock, stop);
      else latestMs = Math.max(latestMs, -waitMs);
    }
    if (stop.aborted) break;
    const one = job.run().then((result) => {
      measured.push(result);
      if (result.failure !== undefined) failed++;
      underWay.delete(one);
      progress(measured.length, failed);
    });
    underWay.add(one);
  }
  await Promise.all(underWay);
  return { measured, seconds: (performance.now() - began) / 1_000, latestMs };
}
