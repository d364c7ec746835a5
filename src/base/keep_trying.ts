// SPDX-License-Identifier: Apache-2.0
// What is to go on for as long as nobody ends it, and may fail: it is begun anew after a pause that grows with every failure.

import type { Clock } from "./clock.ts";
import { pause } from "./pause.ts";

export interface Pauses {
  readonly firstMs: number;
  readonly longestMs: number;
}

/**
 * Runs an attempt, and another one when it ends or fails, until the signal aborts. One that has gone on for as long as the
 * longest pause is followed by the first one again; one that does something and fails at once is not.
 * @param failed Is told what an attempt failed with.
 */
export async function keepTrying(
  attempt: () => Promise<void>,
  failed: (error: Error) => void,
  { firstMs, longestMs }: Pauses,
  clock: Clock,
  signal: AbortSignal,
): Promise<void> {
  let pauseMs = firstMs;
  while (!signal.aborted) {
    const began = clock.now();
    try {
      await attempt();
    } catch (error) {
      if (signal.aborted) return;
      failed(error as Error);
    }
    if (clock.now() - began >= longestMs) pauseMs = firstMs;
    await pause(pauseMs, clock, signal);
    pauseMs = Math.min(longestMs, 2 * pauseMs);
  }
}
