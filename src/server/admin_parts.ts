// SPDX-License-Identifier: Apache-2.0
// What the admin shows and does, out of the parts of a running gateway.

import process from "node:process";
import type { AttachedKernel } from "../../wasm/kernel.ts";
import type { AdminParts } from "../admin/admin.ts";
import type { LiveEvents } from "../admin/live_events.ts";
import { metricsPage, type MetricsSource } from "../admin/metrics_page.ts";
import { VERSION } from "../base/version.ts";
import type { ControlPlane } from "../control/control_plane.ts";
import type { Fleet } from "../control/fleet.ts";
import type { EngineCaches } from "../control/engine_caches.ts";
import { endpointViews } from "../control/fleet_view.ts";
import type { LoadSync } from "../control/load_sync.ts";
import type { Reloader } from "../control/reloader.ts";
import type { Trainer } from "../control/trainer.ts";
import { RouteTable } from "../gateway/routes.ts";
import type { CenterLink } from "../metadata/link.ts";
import { DecisionMaker } from "../scheduler/decision.ts";
import { lockWaitsIn, waitingIn } from "../tables/cluster_queue.ts";
import { readCell, sumCells } from "../tables/metric_cells.ts";
import { tenantLoad } from "../tables/tenant_table.ts";
import { WORKER_CELLS } from "../telemetry/cells.ts";
import { readTenant } from "../telemetry/readings.ts";
import { readSeries } from "../telemetry/request_series.ts";
import type { Log } from "../telemetry/log.ts";
import type { Supervisor } from "./supervisor.ts";

export interface AdminSources {
  readonly kernel: AttachedKernel;
  readonly control: ControlPlane;
  readonly fleet: Fleet;
  readonly trainer: Trainer;
  readonly caches: EngineCaches;
  readonly supervisor: Supervisor;
  readonly reloader: Reloader;
  readonly log: Log;
  readonly status: { leaving: boolean };
  center(): { gatewayId: string; link: CenterLink; sync: LoadSync } | undefined;
}

export function adminParts(sources: AdminSources, live: Pick<LiveEvents, "open">): AdminParts {
  const { kernel, control, fleet, supervisor, reloader } = sources;
  let routes: { version: number; table: RouteTable } | undefined;
  return {
    snapshot: () => control.snapshot,
    config: () => control.config,
    reload: () => reloader.view(),
    reloadNow: () => reloader.reload("it was asked for"),
    routes() {
      const { snapshot } = control;
      if (routes?.version !== snapshot.version) routes = { version: snapshot.version, table: new RouteTable(snapshot) };
      return routes.table;
    },
    decisions: new DecisionMaker(kernel),
    tokens: sources.caches.tokens,
    sources: () => control.discoveries.view(),
    notReady: () => notReady(sources),
    events: () => live.open(),
    endpoints: () => endpointViews(fleet, sources.caches),
    putEndpoint: (cluster, spec) => control.admin.put(cluster, spec),
    deleteEndpoint: (id) => control.admin.delete(id),
    sourcesOf: (cluster, key) => control.discoveries.sourcesOf(cluster, key),
    center() {
      const center = sources.center();
      return center === undefined
        ? null
        : { gateway: center.gatewayId, centers: center.link.view(), clusters: center.sync.view() };
    },
    workers: () => supervisor.view(),
    nameOf: (row) => fleet.nameOf(row),
    loadOf: (row) => fleet.table.load(row),
    killWorker: (worker) => supervisor.kill(worker),
    replaceWorker: (worker) => supervisor.replace(worker, control.config.timeouts.drain_ms),
    setDraining: (name, draining) => fleet.setDraining(name, draining),
    metrics: (format) => metricsPage(metricsOf(sources), format),
  };
}

/** Why no request can be served; undefined when they can. */
export function notReady({ status, supervisor, fleet }: AdminSources): string | undefined {
  if (status.leaving) return "draining";
  if (supervisor.serving === 0) return "no worker is serving";
  return fleet.available === 0 ? "no endpoint is available" : undefined;
}

/** Who has a tenant's row; names that are not configured share theirs. */
export function tenantRows({ control: { rows } }: AdminSources): { name: string; row: number }[] {
  return [
    { name: "anonymous", row: 0 },
    ...[...rows.tenants.all].map(([name, { row }]) => ({ name, row })),
    ...Array.from({ length: rows.tenantRows - rows.firstOther }, (_, i) => ({
      name: "other",
      row: rows.firstOther + i,
    })),
  ];
}

/** Prefix buckets that are looked at to tell how full the index is. */
const SAMPLED_BUCKETS = 1_024;

/** What /metrics shows. */
export function metricsOf(sources: AdminSources): MetricsSource {
  const { kernel, control, fleet, trainer, supervisor, reloader, center } = sources;
  const cells = sumCells(kernel);
  const { rows, layout, snapshot: { config } } = control;
  const { limits } = config;
  const modelRows = [...rows.models.all].map(([model, { row }]) => ({ model, row }));
  const known = center();
  const endpoints = endpointViews(fleet, sources.caches);
  const groupRows = kernel.exports.GROUP_ROWS;
  const left = fleet.members.filter(({ leftAt }) => leftAt !== undefined).length;
  const underWay = endpoints.reduce((sum, { in_flight }) => sum + in_flight, 0) +
    [...control.snapshot.rows.clusters.values()].reduce((sum, row) => sum + waitingIn(kernel, row), 0);
  return {
    version: VERSION,
    cells,
    layout,
    heaps: supervisor.areas().map(({ worker, area }) => ({
      worker,
      used: readCell(kernel, area, WORKER_CELLS.heapUsed),
      allocated: readCell(kernel, area, WORKER_CELLS.allocated),
    })),
    series: readSeries(kernel, layout),
    models: modelRows,
    predictions: modelRows.map(({ model, row }) => ({
      model,
      samples: trainer.table.samples(row),
      error: trainer.predictionError(row).error,
      bytesPerToken: trainer.table.bytesPerToken(row),
    })),
    tenants: tenantRows(sources).map(({ name, row }) => ({
      name,
      row,
      counts: readTenant(cells, layout, row),
      ...tenantLoad(kernel, row),
    })),
    clusterQueues: [...control.snapshot.rows.clusters].map(([cluster, row]) => ({
      cluster,
      saturation: fleet.saturationOf(row),
      lockWaits: lockWaitsIn(kernel, row),
    })),
    ruleCount: Object.values(config.model_mapping_rule).reduce((sum, { rules }) => sum + rules.length, 0),
    loadBalancingRules: Object.keys(config.lb_mapping_rule).length,
    endpoints,
    unplaced: fleet.unplaced,
    clusters: config.clusters.map(({ name }) => name),
    workers: { serving: supervisor.serving, restarts: supervisor.restarts },
    reload: reloader.view(),
    sources: control.discoveries.view(),
    tables: [
      { table: "clusters", ...rows.clusters.usage, limit: limits.clusters },
      { table: "models", ...rows.models.usage, limit: limits.models },
      { table: "tenants", ...rows.tenants.usage, limit: limits.tenants },
      {
        table: "endpoints",
        // A cluster has rows in groups.
        used: [...Map.groupBy(fleet.members, ({ cluster }) => cluster).values()].reduce((sum, { length }) => {
          return sum + groupRows * Math.ceil(length / groupRows);
        }, 0),
        retired: left,
        limit: limits.endpoints,
      },
      {
        table: "requests_in_flight",
        used: underWay,
        retired: 0,
        limit: limits.requests_in_flight * supervisor.areas().length,
      },
      {
        table: "prefixes",
        used: Math.round(limits.prefixes * kernel.exports.indexUsage(SAMPLED_BUCKETS) / 1_000),
        retired: 0,
        limit: limits.prefixes,
      },
    ],
    sharedBytes: kernel.buffer.byteLength,
    blocksLost: sources.caches.index.lost,
    sync: known?.sync.view() ?? [],
    centers: known?.link.view() ?? [],
    centerCalls: known?.link.calls() ?? [],
    process: processFigures(),
    aliases: config.compat === "go" ? ["go", ...config.admin.metric_names] : config.admin.metric_names,
  };
}

function processFigures(): MetricsSource["process"] {
  const { user, system } = process.cpuUsage();
  return {
    residentBytes: Deno.memoryUsage().rss,
    cpuSeconds: (user + system) / 1e6,
    startedSeconds: performance.timeOrigin / 1_000,
    openFiles: openFiles(),
  };
}

// Null where the system or the permissions do not tell.
function openFiles(): number | null {
  try {
    return [...Deno.readDirSync("/proc/self/fd")].length;
  } catch {
    return null;
  }
}
