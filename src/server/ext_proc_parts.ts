// SPDX-License-Identifier: Apache-2.0
// What a worker gives its gRPC server, where Envoy asks.

import type { Deadlines } from "../base/deadlines.ts";
import type { Config } from "../config/schema.ts";
import { PROCESS, Processing, type ProcessingParts } from "../front/ext_proc/processing.ts";
import type { GrpcServerParts } from "../grpc/server.ts";
import { health } from "../grpc/health.ts";

/** Of a message beside the body in it. */
const MESSAGE_BYTES = 65_536;

export interface ExtProcParts extends GrpcServerParts, ProcessingParts {}

/** Their bounds are those of the configuration in force when `boundExtProc` was last called. */
export function extProcParts(
  deadlines: Deadlines,
  answer: ProcessingParts["answer"],
  ready: () => boolean,
): ExtProcParts {
  const parts: ExtProcParts = {
    clock: deadlines.clock,
    deadlines,
    answer,
    patience: { headMs: 0, firstByteMs: 0, idleMs: 0 },
    bounds: { fallbacks: 0, bodyBytes: 0 },
    limits: { streams: 0, messageBytes: 0, headerBytes: 0 },
    methods: (path, stream) => path === PROCESS ? new Processing(stream, parts) : health(path, stream, ready),
  };
  return parts;
}

/** A configuration comes into force. */
export function boundExtProc(parts: ExtProcParts, { ext_proc, limits, timeouts }: Config): void {
  Object.assign(parts.patience, {
    headMs: timeouts.response_header_ms,
    firstByteMs: timeouts.first_byte_ms,
    idleMs: timeouts.stream_idle_ms,
  });
  Object.assign(parts.bounds, { fallbacks: ext_proc?.fallbacks ?? 0, bodyBytes: limits.body_bytes });
  Object.assign(parts.limits, {
    streams: ext_proc?.streams_per_connection ?? 1,
    messageBytes: limits.body_bytes + MESSAGE_BYTES,
    headerBytes: limits.client_head_bytes + MESSAGE_BYTES,
  });
}
