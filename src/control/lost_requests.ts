// SPDX-License-Identifier: Apache-2.0
// The end of requests whose worker died: metrics, their tenants' limits and the log get them from the control plane, as
// the worker cannot tell any more. Then what they load is released.

import type { AttachedKernel } from "../../wasm/kernel.ts";
import { settleLost } from "../admission/limits.ts";
import type { Clock } from "../base/clock.ts";
import { clearOwn, ownCells } from "../tables/metric_cells.ts";
import { openRequests, RequestPhase } from "../tables/request_table.ts";
import { type CellLayout, GAUGES } from "../telemetry/cells.ts";
import { Instruments } from "../telemetry/instruments.ts";
import type { Log } from "../telemetry/log.ts";

/** Requests of one death that are logged one by one. */
const LOGGED = 100;

export interface LostRequestParts {
  readonly kernel: AttachedKernel;
  readonly clock: Clock;
  readonly log: Log;
  /** Where metrics are counted. */
  readonly layout: CellLayout;
  /** HOST:PORT of an endpoint row. */
  nameOf(row: number): string;
}

export class LostRequests {
  readonly #instruments: Instruments;

  constructor(readonly parts: LostRequestParts) {
    this.#instruments = new Instruments(ownCells(parts.kernel), parts.layout);
  }

  /** Takes an area from its worker; returns how many requests were lost. */
  reap(area: number): number {
    const { kernel, clock, log, nameOf } = this.parts;
    const lost = openRequests(kernel, area);
    const released = kernel.exports.reap(area);
    clearOwn(kernel, area, GAUGES);
    for (const [i, request] of lost.entries()) {
      const sent = request.phase >= RequestPhase.prefilling;
      this.#instruments.lost(request.model, request.tenant, sent);
      settleLost(kernel, request, clock.shared());
      if (i >= LOGGED) continue;
      log.warn("a request was lost with its worker", {
        endpoint: request.phase >= RequestPhase.granted ? nameOf(request.endpoint) : "",
        prompt_bytes: request.promptBytes,
        sent,
      });
    }
    return released;
  }
}
