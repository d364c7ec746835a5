// SPDX-License-Identifier: Apache-2.0
// The gateway's /metrics: the workers' cells summed up, and gauges of the fleet.

import type { CallStats } from "../metadata/call_stats.ts";
import {
  type CellLayout,
  DECISION_CELLS,
  ENDPOINT_CELLS,
  histogramAt,
  LOOP_CELLS,
  RETRY_REASONS,
  WORKER_CELLS,
} from "../telemetry/cells.ts";
import { outcomeIsError } from "../telemetry/outcome.ts";
import { type Family, type MetricsSink, MetricsText, type TextFormat } from "../telemetry/prometheus.ts";
import { readModel, type readTenant } from "../telemetry/readings.ts";
import type { Series } from "../telemetry/request_series.ts";
import { ALIASES, type AliasName, FAMILIES } from "./metric_families.ts";

export interface EndpointMetrics {
  cluster: string;
  /** HOST:PORT */
  endpoint: string;
  row: number;
  state: string;
  in_flight: number;
  remote_in_flight: number;
  prompt_bytes: number;
  dispatched: number;
  waiting: number | null;
  running: number | null;
  kv_usage: number | null;
  max_in_flight: number | null;
  prefix_hit_ratio: number | null;
  metrics_age_ms: number | null;
  failures: number;
  ejections: number;
  labels: Readonly<Record<string, string>>;
  kv_events: { exact: boolean; blocks: number; batches: number; lost: number; lag_ms: number } | null;
}

export interface MetricsSource {
  version: string;
  /** Sum over workers, and how it is laid out. */
  cells: Float64Array;
  layout: CellLayout;
  /** What workers count apart. */
  heaps: { worker: number; used: number; allocated: number }[];
  series: Series[];
  /** Models that have a row, those that are going included. */
  models: { model: string; row: number }[];
  /** Rows that share a name, those of tenants that are not configured, are one. */
  tenants: { name: string; row: number; counts: ReturnType<typeof readTenant>; concurrency: number; waiting: number }[];
  clusterQueues: { cluster: string; saturation: number; lockWaits: number }[];
  /** What the latency models have learned. */
  predictions: { model: string; samples: number; error: number; bytesPerToken: number }[];
  ruleCount: number;
  loadBalancingRules: number;
  endpoints: EndpointMetrics[];
  /** Endpoints that found no row. */
  unplaced: number;
  clusters: string[];
  reload: { last_success: number; counts: Readonly<Record<string, number>> };
  sources: { source: string; state: string; failures: number; endpoints: number; age_ms: number | null }[];
  /** Rows of the shared memory by what they are of, and how many there may be. */
  tables: { table: string; used: number; retired: number; limit: number }[];
  sharedBytes: number;
  /** Blocks that engines hold and the index has no place for. */
  blocksLost: number;
  workers: { serving: number; restarts: number };
  sync: { cluster: string; age_ms: number | null; weight: number }[];
  centers: { center: string; state: string; dropped: number }[];
  centerCalls: CallStats[];
  process: { residentBytes: number; cpuSeconds: number; startedSeconds: number; openFiles: number | null };
  aliases: readonly AliasName[];
}

const STATES = ["available", "unhealthy", "draining", "ejected", "trial"];
const CENTER_STATES = ["available", "probing", "unavailable"];

export function metricsPage(source: MetricsSource, format: TextFormat): string {
  const text = new MetricsText(format);
  writeMetrics(text, source);
  return text.toString();
}

/** Every metric, into whatever takes them. */
export function writeMetrics(text: MetricsSink, source: MetricsSource): void {
  text.add(FAMILIES.version, { version: source.version }, 1);
  requestMetrics(text, source);
  tryMetrics(text, source);
  tenantMetrics(text, source);
  predictionMetrics(text, source);
  fleetMetrics(text, source);
  configMetrics(text, source);
  centerMetrics(text, source);
  processMetrics(text, source);
  if (source.aliases.includes("go")) goMetrics(text, source);
  if (source.aliases.includes("inference_extension")) extensionMetrics(text, source);
}

/** Names of the rows of models and tenants; of those that nothing is known of, what stands for them. */
function namesOf({ models, tenants, layout }: MetricsSource) {
  const [byModel, byTenant] = [new Map<number, string>(), new Map<number, string>()];
  for (const { model, row } of models) byModel.set(row, model);
  for (const { name, row } of tenants) byTenant.set(row, name);
  return {
    model(row: number | undefined): string {
      if (row === undefined) return "other";
      return row === layout.unknownModel ? "" : byModel.get(row) ?? "other";
    },
    tenant: (row: number | undefined): string => row === undefined ? "other" : byTenant.get(row) ?? "other",
  };
}

/** Adds up what has the same labels. */
class Sums {
  readonly #sums = new Map<string, { labels: Record<string, string>; value: number }>();

  add(labels: Record<string, string>, value: number): void {
    const key = Object.values(labels).join("\0");
    const known = this.#sums.get(key);
    if (known) known.value += value;
    else this.#sums.set(key, { labels, value });
  }

  writeTo(text: MetricsSink, family: Family): void {
    for (const { labels, value } of this.#sums.values()) text.add(family, labels, value);
  }
}

function requestMetrics(text: MetricsSink, source: MetricsSource): void {
  const { cells, layout, models, series } = source;
  const names = namesOf(source);
  const [requests, seconds] = [new Sums(), new Sums()];
  for (const { model, path, outcome, tenant, requests: count, seconds: time } of series) {
    const labels = { model: names.model(model), path, outcome, tenant: names.tenant(tenant) };
    requests.add(labels, count);
    seconds.add(labels, time);
  }
  requests.writeTo(text, FAMILIES.requests);
  seconds.writeTo(text, FAMILIES.requestSeconds);
  for (const { model, row } of [...models, { model: "", row: layout.unknownModel }]) {
    const reading = readModel(cells, layout, row);
    text.addHistogram(FAMILIES.duration, { model }, reading.duration)
      .addHistogram(FAMILIES.ttft, { model, answer: "stream" }, reading.ttftStream)
      .addHistogram(FAMILIES.ttft, { model, answer: "whole" }, reading.ttftWhole)
      .addHistogram(FAMILIES.tokenTime, { model }, reading.tokenTime)
      .addHistogram(FAMILIES.queue, { model }, reading.queue);
    const { counts } = reading;
    const count = (family: Family, value: number) => value > 0 && text.add(family, { model }, value);
    count(FAMILIES.promptTokens, counts.promptTokens);
    count(FAMILIES.completionTokens, counts.completionTokens);
    count(FAMILIES.usageAnswers, counts.usageAnswers);
    // A share of nothing is nothing, and of something may be 0.
    if (counts.promptTokens > 0) text.add(FAMILIES.cachedTokens, { model }, counts.cachedTokens);
    count(FAMILIES.promptBytes, counts.promptBytes);
    if (counts.promptBytes > 0) text.add(FAMILIES.presumedBytes, { model }, counts.presumedBytes);
  }
  text.addHistogram(FAMILIES.decision, {}, histogramAt(cells, DECISION_CELLS))
    .add(FAMILIES.streamPieces, {}, cells[WORKER_CELLS.pieces])
    .add(FAMILIES.responseBytes, {}, cells[WORKER_CELLS.bytes]);
}

function tryMetrics(text: MetricsSink, { cells }: MetricsSource): void {
  for (const [i, reason] of RETRY_REASONS.entries()) {
    text.add(FAMILIES.retries, { reason }, cells[WORKER_CELLS.retries + i]);
  }
  text.add(FAMILIES.retriesRefused, {}, cells[WORKER_CELLS.retriesRefused])
    .add(FAMILIES.replicaFaults, {}, cells[WORKER_CELLS.replicaFaults])
    .add(FAMILIES.suspicions, {}, cells[WORKER_CELLS.suspicions])
    .add(FAMILIES.hedges, {}, cells[WORKER_CELLS.hedges])
    .add(FAMILIES.hedgesWon, {}, cells[WORKER_CELLS.hedgesWon])
    .add(FAMILIES.connectFailures, {}, cells[WORKER_CELLS.connectFailures]);
}

function tenantMetrics(text: MetricsSink, { tenants, clusterQueues }: MetricsSource): void {
  for (const tenant of new Set(tenants.map(({ name }) => name))) {
    const rows = tenants.filter(({ name }) => name === tenant);
    const sum = (value: (one: typeof rows[number]) => number) => rows.reduce((total, one) => total + value(one), 0);
    // Names that nobody has used so far are left out.
    const used = sum(({ counts, concurrency, waiting }) => counts.sent + counts.refused + concurrency + waiting);
    if (used === 0) continue;
    text.add(FAMILIES.tenantRequests, { tenant }, sum(({ counts }) => counts.sent))
      .add(FAMILIES.tenantRefused, { tenant }, sum(({ counts }) => counts.refused))
      .add(FAMILIES.tenantPromptTokens, { tenant }, sum(({ counts }) => counts.promptTokens))
      .add(FAMILIES.tenantCompletionTokens, { tenant }, sum(({ counts }) => counts.completionTokens))
      .add(FAMILIES.tenantConcurrency, { tenant }, sum((one) => one.concurrency))
      .add(FAMILIES.tenantWaiting, { tenant }, sum((one) => one.waiting));
  }
  for (const { cluster, saturation, lockWaits } of clusterQueues) {
    text.add(FAMILIES.saturation, { cluster }, saturation).add(FAMILIES.queueLockWaits, { cluster }, lockWaits);
  }
}

function predictionMetrics(text: MetricsSink, { predictions }: MetricsSource): void {
  for (const { model, samples, error, bytesPerToken } of predictions) {
    if (samples === 0) continue;
    text.add(FAMILIES.ttftSamples, { model }, samples).add(FAMILIES.ttftError, { model }, error);
    if (bytesPerToken > 0) text.add(FAMILIES.bytesPerToken, { model }, bytesPerToken);
  }
}

function fleetMetrics(text: MetricsSink, source: MetricsSource): void {
  const { endpoints, clusters, cells, layout } = source;
  text.add(FAMILIES.clusters, {}, clusters.length)
    .add(FAMILIES.rules, {}, source.ruleCount)
    .add(FAMILIES.loadBalancingRules, {}, source.loadBalancingRules)
    .add(FAMILIES.blocksLost, {}, source.blocksLost);
  for (const cluster of clusters) {
    const own = endpoints.filter((one) => one.cluster === cluster);
    for (const state of STATES) {
      const count = own.filter((one) => one.state === state).length;
      if (count > 0 || state === "available") text.add(FAMILIES.clusterEndpoints, { cluster, state }, count);
    }
  }
  for (const one of endpoints) {
    const labels = { cluster: one.cluster, endpoint: one.endpoint };
    const base = layout.endpoint(one.row);
    const cell = (name: keyof typeof ENDPOINT_CELLS) => cells[base + ENDPOINT_CELLS[name]];
    const known = (family: Family, value: number | null) => value !== null && text.add(family, labels, value);
    text.add(FAMILIES.endpointState, { ...labels, state: one.state }, 1)
      .add(FAMILIES.endpointInFlight, labels, one.in_flight)
      .add(FAMILIES.endpointRemoteInFlight, labels, one.remote_in_flight)
      .add(FAMILIES.endpointPromptBytes, labels, one.prompt_bytes)
      .add(FAMILIES.endpointDispatched, labels, one.dispatched)
      .add(FAMILIES.endpointAnswered, labels, cell("answered"))
      .add(FAMILIES.endpointFailed, labels, cell("failed"))
      .add(FAMILIES.endpointEjections, labels, one.ejections)
      .add(FAMILIES.endpointFailures, labels, one.failures)
      .addSummary(FAMILIES.endpointTtft, labels, cell("ttfts"), cell("ttftSeconds"));
    if (cell("promptBytes") > 0) {
      text.add(FAMILIES.endpointSentBytes, labels, cell("promptBytes"))
        .add(FAMILIES.endpointPresumedBytes, labels, cell("presumedBytes"));
    }
    if (cell("promptTokens") > 0) {
      text.add(FAMILIES.endpointPromptTokens, labels, cell("promptTokens"))
        .add(FAMILIES.endpointCachedTokens, labels, cell("cachedTokens"));
    }
    known(FAMILIES.endpointWaiting, one.waiting);
    known(FAMILIES.endpointRunning, one.running);
    known(FAMILIES.endpointKvUsage, one.kv_usage);
    known(FAMILIES.endpointMaxInFlight, one.max_in_flight);
    known(FAMILIES.endpointHitRatio, one.prefix_hit_ratio);
    known(FAMILIES.endpointMetricsAge, one.metrics_age_ms === null ? null : one.metrics_age_ms / 1_000);
    if (one.kv_events !== null) {
      text.add(FAMILIES.endpointKvExact, labels, one.kv_events.exact ? 1 : 0)
        .add(FAMILIES.endpointKvBlocks, labels, one.kv_events.blocks)
        .add(FAMILIES.endpointKvBatches, labels, one.kv_events.batches)
        .add(FAMILIES.endpointKvLost, labels, one.kv_events.lost)
        .add(FAMILIES.endpointKvLag, labels, one.kv_events.lag_ms / 1_000);
    }
  }
}

function configMetrics(text: MetricsSink, { reload, sources, unplaced }: MetricsSource): void {
  for (const [result, count] of Object.entries(reload.counts)) text.add(FAMILIES.reloads, { result }, count);
  text.add(FAMILIES.reloadedAt, {}, reload.last_success / 1_000);
  for (const { source, state, failures, endpoints, age_ms } of sources) {
    text.add(FAMILIES.discoveryUp, { source }, state === "failing" ? 0 : 1)
      .add(FAMILIES.discoveryFailures, { source }, failures)
      .add(FAMILIES.discoveryEndpoints, { source }, endpoints);
    if (age_ms !== null) text.add(FAMILIES.discoveryAge, { source }, age_ms / 1_000);
  }
  text.add(FAMILIES.unplaced, {}, unplaced);
}

function centerMetrics(text: MetricsSink, { sync, centers, centerCalls, cells }: MetricsSource): void {
  for (const { center, state, dropped } of centers) {
    text.add(FAMILIES.centerState, { center }, CENTER_STATES.indexOf(state))
      .add(FAMILIES.centerDropped, { center }, dropped);
  }
  for (const { cluster, age_ms, weight } of sync) {
    if (age_ms !== null) text.add(FAMILIES.centerAge, { cluster }, age_ms / 1_000);
    text.add(FAMILIES.remoteWeight, { cluster }, weight);
  }
  text.add(FAMILIES.savesDropped, {}, cells[WORKER_CELLS.savesDropped]);
  for (const { labels: { instance, ...labels }, duration: { counts, sum } } of centerCalls) {
    text.addHistogram(FAMILIES.centerCalls, { center: instance, ...labels }, { counts, sum: sum / 1e6 });
  }
}

function processMetrics(text: MetricsSink, source: MetricsSource): void {
  const { cells, workers, heaps, tables, process } = source;
  text.add(FAMILIES.workersServing, {}, workers.serving)
    .add(FAMILIES.workerRestarts, {}, workers.restarts)
    .addHistogram(FAMILIES.loopDelay, {}, histogramAt(cells, LOOP_CELLS))
    .add(FAMILIES.sharedMemory, {}, source.sharedBytes);
  for (const { worker, used, allocated } of heaps) {
    text.add(FAMILIES.heapUsed, { worker }, used).add(FAMILIES.allocated, { worker }, allocated);
  }
  for (const { table, used, retired, limit } of tables) {
    text.add(FAMILIES.tableRows, { table, state: "in use" }, used - retired);
    if (retired > 0) text.add(FAMILIES.tableRows, { table, state: "retired" }, retired);
    text.add(FAMILIES.tableLimit, { table }, limit);
  }
  text.add(FAMILIES.clientConnections, {}, cells[WORKER_CELLS.clientConnections])
    .add(FAMILIES.clientsRefused, {}, cells[WORKER_CELLS.clientsRefused])
    .add(FAMILIES.accessLogDropped, {}, cells[WORKER_CELLS.logLinesDropped])
    .add(FAMILIES.llmLogDropped, {}, cells[WORKER_CELLS.llmLinesDropped])
    .add(FAMILIES.residentMemory, {}, process.residentBytes)
    .add(FAMILIES.cpuSeconds, {}, process.cpuSeconds)
    .add(FAMILIES.startTime, {}, process.startedSeconds);
  if (process.openFiles !== null) text.add(FAMILIES.openFiles, {}, process.openFiles);
}

function goMetrics(text: MetricsSink, source: MetricsSource): void {
  const names = ALIASES.go;
  const { clusters, endpoints } = source;
  text.add(names.clusters, {}, clusters.length);
  for (const cluster of clusters) {
    text.add(names.clusterEndpoints, { cluster }, endpoints.filter((one) => one.cluster === cluster).length);
  }
  for (const { cluster, endpoint, labels } of endpoints) {
    text.add(names.labels, { cluster, endpoint_address: endpoint }, Object.keys(labels).length);
  }
  text.add(names.rules, {}, source.ruleCount).add(names.loadBalancingRules, {}, source.loadBalancingRules);
  for (const { center, state } of source.centers) {
    text.add(names.centerState, { host: center }, CENTER_STATES.indexOf(state));
  }
  for (const { labels, count, duration } of source.centerCalls) {
    text.add(names.centerRequests, labels, count).addHistogram(names.centerMicroseconds, labels, duration);
  }
}

function extensionMetrics(text: MetricsSink, source: MetricsSource): void {
  const names = ALIASES.inference_extension;
  const { clusters, endpoints, cells, layout, models, series } = source;
  for (const name of clusters) {
    const own = endpoints.filter(({ cluster, state }) => cluster === name && state === "available");
    const mean = (family: Family, value: (one: EndpointMetrics) => number | null) => {
      const values = own.map(value).filter((one) => one !== null);
      if (values.length > 0) text.add(family, { name }, values.reduce((sum, one) => sum + one, 0) / values.length);
    };
    text.add(names.readyPods, { name }, own.length);
    mean(names.averageQueue, ({ waiting }) => waiting);
    mean(names.averageKvUsage, ({ kv_usage }) => kv_usage);
    mean(names.averageRunning, ({ running }) => running);
    for (const { endpoint, waiting } of own) {
      if (waiting !== null) text.add(names.podQueue, { name, model_server_pod: endpoint }, waiting);
    }
  }
  const rowNames = namesOf(source);
  const [requests, errors] = [new Sums(), new Sums()];
  for (const { model, outcome, requests: count } of series) {
    const name = rowNames.model(model);
    const labels = { model_name: name, target_model_name: name };
    requests.add(labels, count);
    if (outcomeIsError(outcome)) errors.add({ ...labels, error_code: outcome }, count);
  }
  requests.writeTo(text, names.requests);
  errors.writeTo(text, names.errors);
  for (const { model, row } of models) {
    const labels = { model_name: model, target_model_name: model };
    text.addHistogram(names.duration, labels, readModel(cells, layout, row).duration);
  }
  text.addHistogram(names.scheduling, {}, histogramAt(cells, DECISION_CELLS));
}
