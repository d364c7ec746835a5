// SPDX-License-Identifier: Apache-2.0
// What a worker gives its direct listeners.

import type { Deadlines } from "../base/deadlines.ts";
import type { Config } from "../config/schema.ts";
import type { DirectServerParts } from "../front/direct/server.ts";
import { WORKER_CELLS } from "../telemetry/cells.ts";
import type { Instruments } from "../telemetry/instruments.ts";

/** Their bounds are those of the configuration in force when `bound` was last called. */
export function directParts(
  deadlines: Deadlines,
  { cells }: Instruments,
  answer: DirectServerParts["answer"],
): DirectServerParts {
  return {
    deadlines,
    answer,
    limits: { headBytes: 0, headFields: 0, headMs: 0, idleMs: 0, lookMs: 0 },
    bounds: { connections: 0, connectionsPerAddress: 0 },
    counted: (change) => cells[WORKER_CELLS.clientConnections] += change,
    refused: () => cells[WORKER_CELLS.clientsRefused]++,
  };
}

/** A configuration comes into force. */
export function bound(parts: DirectServerParts, { limits, timeouts }: Config): void {
  Object.assign(parts.limits, {
    headBytes: limits.client_head_bytes,
    headFields: limits.client_head_fields,
    headMs: timeouts.client_head_ms,
    idleMs: timeouts.client_idle_ms,
    lookMs: timeouts.leaver_look_ms,
  });
  Object.assign(parts.bounds, {
    connections: limits.client_connections,
    connectionsPerAddress: limits.client_connections_per_address,
  });
}
