// SPDX-License-Identifier: Apache-2.0
// What a gateway read of an engine's metrics, told to the others: a page of metrics costs an engine milliseconds, and is
// the same for all of them. Nobody keeps it: it is of a moment.

import type { EngineAddress } from "./engine_address.ts";

/** One reading, as it goes over the wire. */
export interface EngineReport {
  /** What the engine told, by the names of `EngineSignals`. */
  signals: Record<string, unknown>;
  /** Ms that have passed since the engine was asked, at least. */
  ageMs: number;
  /** What its metrics cost an engine, ms a time, in the mean. */
  costMs: number;
}

/** A reading of an engine, and who told it. */
export interface EngineReportTold extends EngineAddress {
  cluster: string;
  report: EngineReport;
  gateway?: string;
}

/** A reading that has waited longer than this to be told is not told any more, ms. */
const STALE_MS = 1_000;

/** Events as they are to be sent now: readings are older by what they have waited, or left out. */
export function sentNow<E extends { type: string; body: Record<string, unknown>; madeAt?: number }>(
  events: readonly E[],
  now = performance.now(),
): Omit<E, "madeAt">[] {
  return events.flatMap(({ madeAt, ...event }) => {
    if (madeAt === undefined) return [event];
    const waited = now - madeAt;
    if (waited > STALE_MS) return [];
    return [{ ...event, body: { ...event.body, age_ms: Number(event.body.age_ms) + waited } }];
  });
}
