// SPDX-License-Identifier: Apache-2.0
// When an endpoint that says nothing is suspect, by the configuration and what is predicted and seen.

import type { Deadlines } from "../base/deadlines.ts";
import type { Config } from "../config/schema.ts";
import type { SilenceParts } from "../gateway/silence.ts";
import { generates } from "../openai/api.ts";
import type { EndpointPulse } from "../tables/endpoint_pulse.ts";
import type { EndpointTable } from "../tables/endpoint_table.ts";
import type { PredictorTable } from "../tables/predictor_table.ts";
import { WORKER_CELLS } from "../telemetry/cells.ts";
import type { Instruments } from "../telemetry/instruments.ts";
import type { ModelReadings } from "../telemetry/readings.ts";
import type { Log } from "../telemetry/log.ts";

/** A long answer is this many times as long as the mean. */
const LONG_ANSWER = 2;

/** What of a worker it is told by. */
export interface SilenceSources {
  readonly deadlines: Deadlines;
  readonly pulse: EndpointPulse;
  readonly endpoints: EndpointTable;
  readonly predictors: PredictorTable;
  readonly readings: ModelReadings;
  readonly instruments: Instruments;
  readonly log: Log;
}

export function silenceParts({ outliers, prediction }: Config, sources: SilenceSources): SilenceParts {
  const { deadlines, pulse, endpoints, predictors, readings, instruments, log } = sources;
  const { consecutive_failures: failures, silence_factor, silence_ms: ms, silence_leaver_ms: leaverMs } = outliers;
  return {
    deadlines,
    pulse,
    limits: { factor: outliers.enabled ? silence_factor : 0, ms, leaverMs },
    expectedMs: ({ request, route, predictedMs, endpointRow }) => {
      if (!request || !route || !generates(request.kind)) return Infinity;
      const ttftMs = predictedMs || 0;
      if (request.stream || pulse.tells(endpointRow)) return ttftMs;
      // Nothing comes before the whole answer, which may well be longer than most.
      const { model } = route;
      const stepMs = predictors.predictStep(model, endpoints.requests(endpointRow), 0);
      const tokens = request.maxTokens ?? prediction.output_tokens;
      const usualMs = LONG_ANSWER * readings.meanDuration(model) * 1_000 || Infinity;
      return ttftMs + Math.min(usualMs, tokens * stepMs);
    },
    suspect: ({ name, row }, silentMs, expectedMs) => {
      instruments.add(WORKER_CELLS.suspicions);
      if (endpoints.failures(row) < failures) {
        const figures = { silent_ms: Math.round(silentMs), predicted_ms: Math.round(expectedMs) };
        log.warn("an endpoint is suspect: nothing comes from it", { endpoint: name, ...figures });
      }
      endpoints.countFailure(row, failures);
    },
  };
}
