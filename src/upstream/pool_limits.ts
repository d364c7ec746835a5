// SPDX-License-Identifier: Apache-2.0

import type { Config } from "../config/schema.ts";
import type { PoolLimits } from "./pool.ts";

/** Limits of connections to engines. */
export function poolLimits({ timeouts, limits }: Config): PoolLimits {
  return {
    connectMs: timeouts.connect_ms,
    responseHeaderMs: timeouts.response_header_ms,
    firstByteMs: timeouts.first_byte_ms,
    streamIdleMs: timeouts.stream_idle_ms,
    responseHeaderBytes: limits.response_header_bytes,
    interimAnswers: limits.interim_answers,
    idleConnections: limits.idle_connections_per_endpoint,
    idleConnectionMs: timeouts.idle_connection_ms,
  };
}
