// SPDX-License-Identifier: Apache-2.0
// What can go wrong in a fleet, by name, for the simulation.

import { type Disturbance, UNDISTURBED } from "./simulator.ts";
import type { Trace, TraceRequest } from "./trace.ts";

/** A disturbance of the fleet, and what it makes of a trace. */
export interface Scenario {
  readonly fleet: Disturbance;
  readonly trace?: (trace: Trace) => Trace;
}

/** In the middle of the trace, a tenth of it comes ten times as fast; the rest follows as before. */
function burst({ name, requests }: Trace): Trace {
  const span = requests.at(-1)!.at;
  const [from, until] = [0.45 * span, 0.55 * span];
  const at = (time: number) => time < from ? time : time < until ? from + (time - from) / 10 : time;
  return { name, requests: requests.map((request): TraceRequest => ({ ...request, at: at(request.at) })) };
}

export const SCENARIOS: Record<string, Scenario> = {
  none: { fleet: UNDISTURBED },
  /** Metrics are a second old. */
  stale: { fleet: { ...UNDISTURBED, metricsAgeMs: 1_000 } },
  /** The engines have no metrics. */
  blind: { fleet: { ...UNDISTURBED, metricsAgeMs: Infinity } },
  /** Four gateways that tell each other their load every 50 ms. */
  gateways: { fleet: { ...UNDISTURBED, gateways: 4 } },
  /** One engine runs at half speed. */
  slow: { fleet: { ...UNDISTURBED, speeds: [0.5] } },
  /** No answer is streamed: first tokens are not seen. */
  hidden: { fleet: { ...UNDISTURBED, hidden: 1, rateError: 1 } },
  /** The same, and prefills are believed to take 30 % less, or more, than they do. */
  hidden_short: { fleet: { ...UNDISTURBED, hidden: 1, rateError: 0.7 } },
  hidden_long: { fleet: { ...UNDISTURBED, hidden: 1, rateError: 1.3 } },
  /** Engines are so many ms away, each way. */
  network_1: { fleet: { ...UNDISTURBED, networkMs: 1 } },
  network_2: { fleet: { ...UNDISTURBED, networkMs: 2 } },
  network_10: { fleet: { ...UNDISTURBED, networkMs: 10 } },
  /** Their caches are a quarter as large. */
  small_caches: { fleet: { ...UNDISTURBED, cacheShare: 0.25 } },
  /** Each engine loses its cache every two minutes, one after the other. */
  resets: { fleet: { ...UNDISTURBED, resetMs: 120_000 } },
  /** A tenth of the requests comes ten times as fast. */
  burst: { fleet: UNDISTURBED, trace: burst },
};
