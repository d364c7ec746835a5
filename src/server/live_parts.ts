// SPDX-License-Identifier: Apache-2.0
// What the page shows, out of the parts of a running gateway.

import type { LiveEndpoint, LiveParts, LiveState } from "../admin/live_events.ts";
import type { TrafficHistory, TrafficTotals } from "../admin/traffic_history.ts";
import { systemClock } from "../base/clock.ts";
import { VERSION } from "../base/version.ts";
import { type EndpointView, endpointViews } from "../control/fleet_view.ts";
import { waitingIn } from "../tables/cluster_queue.ts";
import { allCells } from "../tables/metric_cells.ts";
import { tenantLoad } from "../tables/tenant_table.ts";
import { DURATION_BUCKETS, ENDPOINT_CELLS, MODEL_CELLS, TENANT_CELLS } from "../telemetry/cells.ts";
import { outcomeIsError } from "../telemetry/outcome.ts";
import { readSeries } from "../telemetry/request_series.ts";
import { type AdminSources, notReady, tenantRows } from "./admin_parts.ts";

export function liveParts(sources: AdminSources, traffic: TrafficHistory): LiveParts {
  const { supervisor, fleet } = sources;
  const areas = allCells(sources.kernel);
  const sum = (cell: number) => areas.reduce((total, cells) => total + cells[cell], 0);
  return {
    clock: systemClock,
    traffic,
    watch: (open) => supervisor.watch(open),
    state: () => stateOf(sources, sum),
    endpoints: () => endpointViews(fleet).map((view) => endpointOf(view, sources, sum)),
  };
}

function endpointOf(
  view: EndpointView,
  { control: { layout } }: AdminSources,
  sum: (cell: number) => number,
): LiveEndpoint {
  const base = layout.endpoint(view.row);
  const ttfts = sum(base + ENDPOINT_CELLS.ttfts);
  return {
    cluster: view.cluster,
    endpoint: view.endpoint,
    state: view.state,
    why: view.why,
    in_flight: view.in_flight,
    remote_in_flight: view.remote_in_flight,
    waiting: view.waiting,
    running: view.running,
    kv_usage: view.kv_usage,
    prefix_hit_ratio: view.prefix_hit_ratio,
    ttft: ttfts === 0 ? null : sum(base + ENDPOINT_CELLS.ttftSeconds) / ttfts,
    dispatched: view.dispatched,
    failed: sum(base + ENDPOINT_CELLS.failed),
    labels: Object.entries(view.labels).map(([key, value]) => `${key}=${value}`).join(" "),
  };
}

function stateOf(sources: AdminSources, sum: (cell: number) => number): LiveState {
  const { kernel, control, fleet, supervisor } = sources;
  const tenants = new Map<string, LiveState["tenants"][number]>();
  for (const { name, row } of tenantRows(sources)) {
    const { concurrency, waiting } = tenantLoad(kernel, row);
    const base = control.layout.tenant(row);
    const known = tenants.get(name) ?? { name, waiting: 0, under_way: 0, sent: 0, refused: 0 };
    tenants.set(name, {
      name,
      waiting: known.waiting + waiting,
      under_way: known.under_way + concurrency,
      sent: known.sent + sum(base + TENANT_CELLS.sent),
      refused: known.refused + sum(base + TENANT_CELLS.refused),
    });
  }
  const used = ({ name, waiting, under_way, sent, refused }: LiveState["tenants"][number]) =>
    name !== "other" || waiting + under_way + sent + refused > 0;
  return {
    version: VERSION,
    not_ready: notReady(sources) ?? null,
    workers: supervisor.serving,
    clusters: [...control.snapshot.rows.clusters].map(([name, row]) => ({
      name,
      saturation: fleet.saturationOf(row),
      waiting: waitingIn(kernel, row),
    })),
    tenants: [...tenants.values()].filter(used),
  };
}

/** What has come through the gateway so far. */
export function trafficTotals({ kernel, control, fleet }: AdminSources): TrafficTotals {
  const { rows, layout } = control;
  const areas = allCells(kernel);
  let [requests, errors, completionTokens, promptTokens, cachedTokens] = [0, 0, 0, 0, 0];
  for (const series of readSeries(kernel, layout)) {
    // Of names that went only outcomes are left, by whatever path.
    if (series.model === undefined || series.path === "/health" || series.path === "/v1/models") continue;
    requests += series.requests;
    if (outcomeIsError(series.outcome)) errors += series.requests;
  }
  const ttft = new Array<number>(DURATION_BUCKETS.length + 1).fill(0);
  for (const [, { row }] of rows.models.all) {
    const base = layout.model(row);
    for (const cells of areas) {
      completionTokens += cells[base + MODEL_CELLS.completionTokens];
      promptTokens += cells[base + MODEL_CELLS.promptTokens];
      cachedTokens += cells[base + MODEL_CELLS.cachedTokens];
      for (let i = 0; i < ttft.length; i++) ttft[i] += cells[base + MODEL_CELLS.ttftStream + i];
    }
  }
  const clusters = [...control.snapshot.rows.clusters.values()];
  return {
    requests,
    errors,
    completionTokens,
    promptTokens,
    cachedTokens,
    ttft,
    waiting: clusters.reduce((sum, row) => sum + waitingIn(kernel, row), 0),
    saturation: Math.max(0, ...clusters.map((row) => fleet.saturationOf(row))),
  };
}
