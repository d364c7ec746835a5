// SPDX-License-Identifier: Apache-2.0
// What engines with OpenAI's API have in common: the client's bytes go to them, nearly unchanged, under the client's path.

import type { Engine } from "./engine.ts";
import { outgoingBody } from "./openai_body.ts";
import { readSignals, type SignalNames } from "./signals.ts";

/** An engine with OpenAI's API whose metrics have these names; without names its load is known by our own count alone. */
export function openAiEngine(names: SignalNames | undefined, pages: { paused?: string } = {}): Engine {
  return {
    alwaysTellsUsage: false,
    rewrites: false,
    probes({ port, healthPort, metricsPort, healthPath, metricsPath }) {
      return {
        health: { port: healthPort ?? port, path: healthPath },
        metrics: { port: metricsPort ?? port, path: metricsPath },
        models: { port, path: "/v1/models" },
        paused: pages.paused === undefined ? undefined : { port, path: pages.paused },
      };
    },
    signals: (text, rank) => names === undefined ? {} : readSignals(names, text, rank),
    prepare({ request, bytes, target, targetModel, usageAccounting }) {
      const { opening, body } = outgoingBody(request, bytes, targetModel, usageAccounting);
      return { encode: (_leg, fields) => ({ method: "POST", target, fields, opening, body }) };
    },
  };
}
