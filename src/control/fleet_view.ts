// SPDX-License-Identifier: Apache-2.0
// The fleet as `/endpoints` and the metrics show it.

import { ENDPOINT_STATE_NAMES } from "../tables/endpoint_table.ts";
import type { EngineCacheView } from "./engine_listener.ts";
import type { Fleet } from "./fleet.ts";

/** One endpoint as `/endpoints` shows it. */
export interface EndpointView {
  cluster: string;
  /** HOST:PORT, as everywhere. */
  endpoint: string;
  address: string;
  port: number;
  /** Its row of the shared memory. */
  row: number;
  state: (typeof ENDPOINT_STATE_NAMES)[number];
  /** Why it is in that state; empty where it is available. */
  why: string;
  in_flight: number;
  prompt_bytes: number;
  remote_in_flight: number;
  remote_prompt_bytes: number;
  dispatched: number;
  waiting: number | null;
  running: number | null;
  kv_usage: number | null;
  kv_capacity_chunks: number;
  metrics_age_ms: number | null;
  /** Requests that it is sent at most, by what it runs at once and by its latency; null without a limit. */
  max_in_flight: number | null;
  /** Share of the prompt tokens that it found in its prefix cache, as it tells since it started. */
  prefix_hit_ratio: number | null;
  failures: number;
  ejections: number;
  backed_off: boolean;
  slow_start_requests: number;
  adapters: readonly string[];
  labels: Readonly<Record<string, string>>;
  /** It is in the fleet no more and finishes what it has. */
  leaving: boolean;
  /** What its engine tells of its KV cache; null where it is not listened to. */
  kv_events: {
    exact: boolean;
    why: string;
    blocks: number;
    block_tokens: number;
    batches: number;
    lost: number;
    lag_ms: number;
  } | null;
}

function kvEventsOf(view: EngineCacheView | undefined): EndpointView["kv_events"] {
  if (view === undefined) return null;
  const { blockTokens, lagMs, ...others } = view;
  return { ...others, block_tokens: blockTokens, lag_ms: Math.round(lagMs) };
}

const known = (value: number) => Number.isNaN(value) ? null : value;

export function endpointViews(
  { members, table, health, clock }: Fleet,
  caches?: { of(row: number): EngineCacheView | undefined },
): EndpointView[] {
  const now = clock.now();
  return members.map((member) => {
    const { cluster, name, spec: { host, port, labels }, row, metricsAt, adapters, leftAt, prefixTokens } = member;
    const { waiting, running, kvUsage } = table.gauges(row);
    return {
      cluster,
      endpoint: name,
      address: host,
      port,
      row,
      state: ENDPOINT_STATE_NAMES[table.state(row)],
      why: health.whyOf(member),
      in_flight: table.requests(row),
      prompt_bytes: table.promptBytes(row),
      remote_in_flight: table.remoteRequests(row),
      remote_prompt_bytes: table.remotePromptBytes(row),
      dispatched: table.dispatched(row),
      waiting: known(waiting),
      running: known(running),
      kv_usage: known(kvUsage),
      kv_capacity_chunks: table.capacityChunks(row),
      max_in_flight: table.limits.least(row) ?? null,
      prefix_hit_ratio: prefixTokens && prefixTokens.queried > 0 ? prefixTokens.hit / prefixTokens.queried : null,
      metrics_age_ms: metricsAt === undefined ? null : Math.round(now - metricsAt),
      failures: table.failures(row),
      ejections: health.of(member).ejections,
      backed_off: table.backedOff(row),
      slow_start_requests: table.penalty(row),
      adapters: adapters.names,
      labels,
      leaving: leftAt !== undefined,
      kv_events: kvEventsOf(caches?.of(row)),
    };
  });
}
