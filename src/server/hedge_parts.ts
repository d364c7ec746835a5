// SPDX-License-Identifier: Apache-2.0

import type { Clock } from "../base/clock.ts";
import type { Deadlines } from "../base/deadlines.ts";
import type { Config } from "../config/schema.ts";
import type { HedgeParts } from "../gateway/hedge.ts";
import { WORKER_CELLS } from "../telemetry/cells.ts";
import type { Instruments } from "../telemetry/instruments.ts";
import type { ModelReadings } from "../telemetry/readings.ts";
import { RetryBudget } from "../upstream/retry_budget.ts";

interface Surroundings {
  readonly clock: Clock;
  readonly deadlines: Deadlines;
  readonly readings: ModelReadings;
  readonly instruments: Instruments;
}

/** What second attempts need; undefined where there are to be none. */
export function hedgeParts(
  { hedge: { percent, after_percentile, least_ms } }: Config,
  { clock, deadlines, readings, instruments }: Surroundings,
): HedgeParts | undefined {
  if (percent === 0) return undefined;
  return {
    deadlines,
    budget: new RetryBudget({ percent, minPerSecond: 0 }, clock),
    afterMs: (model) => {
      const seconds = readings.ttftPercentile(model, after_percentile);
      return seconds === undefined ? Infinity : Math.max(least_ms, seconds * 1_000);
    },
    begun: () => instruments.add(WORKER_CELLS.hedges),
    won: () => instruments.add(WORKER_CELLS.hedgesWon),
  };
}
