// SPDX-License-Identifier: Apache-2.0
// The gateway's /metrics: the workers' cells summed up, and gauges of the fleet.

import { CALL_BUCKETS_US, type CallStats } from "../metadata/call_stats.ts";
import { DURATION_BUCKETS, readLoopDelay, readModel, WORKER_CELLS } from "../telemetry/instruments.ts";
import { OUTCOMES } from "../telemetry/outcome.ts";
import { PrometheusText } from "../telemetry/prometheus.ts";

export interface MetricsSource {
  version: string;
  /** Sum over workers. */
  cells: Float64Array;
  /** Models that have a row, those that are going included. */
  models: { model: string; row: number }[];
  unknownModel: number;
  /** Requests sent and refused, prompt and completion tokens, by tenant row. */
  tenants: { name: string; counts: Float64Array; concurrency: number; waiting: number }[];
  saturation: { cluster: string; value: number }[];
  /** What the latency models have learned. */
  predictions: { model: string; samples: number; error: number; bytesPerToken: number }[];
  ruleCount: number;
  loadBalancingRules: number;
  endpoints: {
    cluster: string;
    /** HOST:PORT */
    endpoint: string;
    state: string;
    in_flight: number;
    prompt_bytes: number;
    dispatched: number;
    waiting: number | null;
    running: number | null;
    kv_usage: number | null;
    max_in_flight: number | null;
    prefix_hit_ratio: number | null;
    labels: Record<string, string>;
  }[];
  /** Endpoints that found no row. */
  unplaced: number;
  clusters: string[];
  reload: { last_success: number; counts: Readonly<Record<string, number>> };
  sources: { source: string; state: string; failures: number; endpoints: number }[];
  /** Rows of the shared memory by what they are of. */
  rows: Record<string, { used: number; retired: number }>;
  workers: { serving: number; restarts: number };
  sync: { cluster: string; age_ms: number | null; weight: number }[];
  centers: { center: string; state: string; dropped: number }[];
  centerCalls: CallStats[];
}

const STATES = ["available", "unhealthy", "draining", "ejected", "trial"];

export function metricsPage(source: MetricsSource): string {
  const text = new PrometheusText();
  const { cells } = source;
  text.family("aigw_version", "gauge", "The running version").sample("aigw_version", { version: source.version }, 1);
  requestMetrics(text, source);
  text.family("aigw_retries_total", "counter", "Requests moved to another endpoint")
    .sample("aigw_retries_total", {}, cells[WORKER_CELLS.retries]);
  text.family("aigw_retries_refused_total", "counter", "Retries that the retry budget did not allow")
    .sample("aigw_retries_refused_total", {}, cells[WORKER_CELLS.retriesRefused]);
  text.family("aigw_replica_faults_total", "counter", "Requests that an endpoint rejected and a peer answered")
    .sample("aigw_replica_faults_total", {}, cells[WORKER_CELLS.replicaFaults]);
  text.family("aigw_suspicions_total", "counter", "Requests that waited in vain for an endpoint that said nothing")
    .sample("aigw_suspicions_total", {}, cells[WORKER_CELLS.suspicions]);
  text.family("aigw_hedges_total", "counter", "Second attempts of streams that were late")
    .sample("aigw_hedges_total", {}, cells[WORKER_CELLS.hedges]);
  text.family("aigw_hedges_won_total", "counter", "Second attempts that were the answer")
    .sample("aigw_hedges_won_total", {}, cells[WORKER_CELLS.hedgesWon]);
  text.family("aigw_connect_failures_total", "counter", "Connections that an endpoint did not accept")
    .sample("aigw_connect_failures_total", {}, cells[WORKER_CELLS.connectFailures]);
  text.family("aigw_stream_pieces_total", "counter", "Pieces of streamed answers relayed")
    .sample("aigw_stream_pieces_total", {}, cells[WORKER_CELLS.pieces]);
  text.family("aigw_response_bytes_total", "counter", "Bytes of answers relayed")
    .sample("aigw_response_bytes_total", {}, cells[WORKER_CELLS.bytes]);
  text.family("aigw_saved_prefixes_dropped_total", "counter", "Prefixes not handed on to the metadata center")
    .sample("aigw_saved_prefixes_dropped_total", {}, cells[WORKER_CELLS.savesDropped]);
  text.family("aigw_access_log_dropped_total", "counter", "Access log lines dropped by a full buffer or disk")
    .sample("aigw_access_log_dropped_total", {}, cells[WORKER_CELLS.logLinesDropped]);
  text.family("aigw_client_connections", "gauge", "Connections of clients to direct listeners")
    .sample("aigw_client_connections", {}, cells[WORKER_CELLS.clientConnections]);
  text.family("aigw_client_connections_refused_total", "counter", "Connections to direct listeners beyond their limits")
    .sample("aigw_client_connections_refused_total", {}, cells[WORKER_CELLS.clientsRefused]);
  text.family("aigw_llm_log_dropped_total", "counter", "Lines of the log of texts dropped by a full buffer or disk")
    .sample("aigw_llm_log_dropped_total", {}, cells[WORKER_CELLS.llmLinesDropped]);
  const delay = readLoopDelay(cells);
  text.family("aigw_event_loop_delay_seconds", "histogram", "How much later than asked timers of the workers fired");
  text.histogram("aigw_event_loop_delay_seconds", {}, DURATION_BUCKETS, delay);
  text.family("aigw_workers_serving", "gauge", "Data plane workers that serve")
    .sample("aigw_workers_serving", {}, source.workers.serving);
  text.family("aigw_worker_restarts_total", "counter", "Data plane workers that were replaced")
    .sample("aigw_worker_restarts_total", {}, source.workers.restarts);
  configMetrics(text, source);
  predictionMetrics(text, source);
  tenantMetrics(text, source);
  fleetMetrics(text, source);
  centerMetrics(text, source);
  return text.toString();
}

function configMetrics(text: PrometheusText, { reload, sources, rows, unplaced }: MetricsSource): void {
  text.family("aigw_config_reload_total", "counter", "Looks at a changed configuration, by what came of them");
  for (const [result, count] of Object.entries(reload.counts)) {
    text.sample("aigw_config_reload_total", { result }, count);
  }
  text.family(
    "aigw_config_last_reload_success_timestamp_seconds",
    "gauge",
    "When the configuration was last read and found valid",
  ).sample("aigw_config_last_reload_success_timestamp_seconds", {}, reload.last_success / 1_000);
  text.family("aigw_discovery_up", "gauge", "Whether a source of endpoints works");
  for (const { source, state } of sources) text.sample("aigw_discovery_up", { source }, state === "failing" ? 0 : 1);
  text.family("aigw_discovery_failures_total", "counter", "Failures of a source of endpoints");
  for (const { source, failures } of sources) text.sample("aigw_discovery_failures_total", { source }, failures);
  text.family("aigw_discovery_endpoints", "gauge", "Endpoints that a source tells");
  for (const { source, endpoints } of sources) text.sample("aigw_discovery_endpoints", { source }, endpoints);
  text.family("aigw_endpoints_without_row", "gauge", "Endpoints that limits.endpoints has no room for")
    .sample("aigw_endpoints_without_row", {}, unplaced);
  text.family("aigw_rows", "gauge", "Rows of the shared memory in use, of what, and of names that are going");
  for (const [of, { used, retired }] of Object.entries(rows)) {
    text.sample("aigw_rows", { of, state: "in use" }, used - retired);
    text.sample("aigw_rows", { of, state: "retired" }, retired);
  }
}

function requestMetrics(text: PrometheusText, { cells, models, unknownModel }: MetricsSource): void {
  const rows = [...models, { model: "", row: unknownModel }]
    .map(({ model, row }) => ({ model, ...readModel(cells, row) }))
    .filter(({ model, outcomes }) => model !== "" || outcomes.some((count) => count > 0));
  text.family("aigw_requests_total", "counter", "Requests ended, by model and outcome");
  for (const { model, outcomes } of rows) {
    OUTCOMES.forEach((outcome, i) => {
      if (outcomes[i] > 0 || outcome === "ok") text.sample("aigw_requests_total", { model, outcome }, outcomes[i]);
    });
  }
  text.family("aigw_request_duration_seconds", "histogram", "From the request to the end of its answer");
  for (const { model, duration } of rows) {
    text.histogram("aigw_request_duration_seconds", { model }, DURATION_BUCKETS, duration);
  }
  text.family("aigw_ttft_seconds", "histogram", "From the request to the first token of a stream");
  for (const { model, ttft } of rows) {
    text.histogram("aigw_ttft_seconds", { model }, DURATION_BUCKETS, ttft);
  }
  const tokens = (name: string, help: string, cell: number) => {
    text.family(name, "counter", help);
    for (const { model, tokens } of rows) text.sample(name, { model }, tokens[cell]);
  };
  tokens("aigw_prompt_tokens_total", "Prompt tokens, as the engines counted them", 0);
  tokens("aigw_completion_tokens_total", "Generated tokens, as the engines counted them", 1);
  tokens("aigw_cached_prompt_tokens_total", "Prompt tokens that came from a prefix cache", 2);
  tokens("aigw_usage_answers_total", "Answers that told their usage", 3);
}

// Rows that share a name, those of tenants that are not configured, are one.
function tenantMetrics(text: PrometheusText, { tenants, saturation }: MetricsSource): void {
  const names = [...new Set(tenants.map(({ name }) => name))];
  const each = (
    name: string,
    type: "counter" | "gauge",
    help: string,
    value: (one: typeof tenants[number]) => number,
  ) => {
    text.family(name, type, help);
    for (const tenant of names) {
      const rows = tenants.filter((one) => one.name === tenant);
      text.sample(name, { tenant }, rows.reduce((sum, one) => sum + value(one), 0));
    }
  };
  each(
    "aigw_tenant_requests_total",
    "counter",
    "Requests of a tenant that went to an engine",
    ({ counts }) => counts[0],
  );
  each("aigw_tenant_refused_total", "counter", "Requests of a tenant that did not", ({ counts }) => counts[1]);
  each("aigw_tenant_prompt_tokens_total", "counter", "Prompt tokens of a tenant", ({ counts }) => counts[2]);
  each("aigw_tenant_completion_tokens_total", "counter", "Generated tokens of a tenant", ({ counts }) => counts[3]);
  each(
    "aigw_tenant_concurrency",
    "gauge",
    "Requests of a tenant with a concurrency limit under way",
    (one) => one.concurrency,
  );
  each("aigw_tenant_waiting_requests", "gauge", "Requests of a tenant that wait for an endpoint", (one) => one.waiting);
  text.family("aigw_cluster_saturation_ratio", "gauge", "How full a cluster is; from 1 on, low priorities are refused");
  for (const { cluster, value } of saturation) text.sample("aigw_cluster_saturation_ratio", { cluster }, value);
}

function predictionMetrics(text: PrometheusText, { predictions }: MetricsSource): void {
  text.family("aigw_ttft_samples_total", "counter", "First tokens that the model's latency model has learned from");
  for (const { model, samples } of predictions) text.sample("aigw_ttft_samples_total", { model }, samples);
  text.family(
    "aigw_ttft_prediction_error_ratio",
    "gauge",
    "Moving median of the relative error of predicted times to the first token",
  );
  for (const { model, error } of predictions) text.sample("aigw_ttft_prediction_error_ratio", { model }, error);
  text.family("aigw_prompt_bytes_per_token", "gauge", "Prompt bytes to a token, as learned; 0 when not known");
  for (const { model, bytesPerToken } of predictions) {
    text.sample("aigw_prompt_bytes_per_token", { model }, bytesPerToken);
  }
}

function centerMetrics(text: PrometheusText, { sync, centers, centerCalls }: MetricsSource): void {
  text.family("aigw_metadata_center_age_seconds", "gauge", "Since the cluster's metadata center was last heard of");
  for (const { cluster, age_ms } of sync) {
    if (age_ms !== null) text.sample("aigw_metadata_center_age_seconds", { cluster }, age_ms / 1_000);
  }
  text.family("aigw_remote_load_weight", "gauge", "Share of the other gateways' load that is counted");
  for (const { cluster, weight } of sync) text.sample("aigw_remote_load_weight", { cluster }, weight);
  const states = ["available", "probing", "unavailable"];
  text.family("aigw_servicediscovery_circuitbreaker_state", "gauge", "0 closed, 1 half-open, 2 open");
  for (const { center, state } of centers) {
    text.sample("aigw_servicediscovery_circuitbreaker_state", { host: center }, states.indexOf(state));
  }
  text.family("metacenter_http_requests_total", "counter", "Calls that a metadata center answered");
  for (const { labels, count } of centerCalls) text.sample("metacenter_http_requests_total", labels, count);
  text.family("metacenter_http_request_duration_us", "histogram", "How long these calls took");
  for (const { labels, duration } of centerCalls) {
    text.histogram("metacenter_http_request_duration_us", labels, CALL_BUCKETS_US, duration);
  }
  text.family(
    "aigw_metadata_center_dropped_total",
    "counter",
    "Changes that were not delivered and are repaired later",
  );
  for (const { center, dropped } of centers) {
    text.sample("aigw_metadata_center_dropped_total", { host: center }, dropped);
  }
}

function fleetMetrics(text: PrometheusText, source: MetricsSource): void {
  const { endpoints, clusters } = source;
  text.family("watched_clusters_total", "gauge", "Clusters known").sample(
    "watched_clusters_total",
    {},
    clusters.length,
  );
  text.family("watched_cluster_endpoints", "gauge", "Endpoints of a cluster");
  for (const cluster of clusters) {
    text.sample("watched_cluster_endpoints", { cluster }, endpoints.filter((one) => one.cluster === cluster).length);
  }
  text.family("watched_cluster_labels", "gauge", "Labels of an endpoint");
  for (const { cluster, endpoint, labels } of endpoints) {
    text.sample(
      "watched_cluster_labels",
      { cluster, endpoint_address: endpoint },
      Object.keys(labels).length,
    );
  }
  text.family("aigw_rule_total", "gauge", "Model mapping rules").sample("aigw_rule_total", {}, source.ruleCount);
  text.family("aigw_lbconfig_total", "gauge", "Load-balancing rules")
    .sample("aigw_lbconfig_total", {}, source.loadBalancingRules);

  const each = (name: string, help: string, value: (one: MetricsSource["endpoints"][number]) => number | null) => {
    text.family(name, name.endsWith("_total") ? "counter" : "gauge", help);
    for (const one of endpoints) {
      const number = value(one);
      if (number !== null) text.sample(name, { cluster: one.cluster, endpoint: one.endpoint }, number);
    }
  };
  each(
    "aigw_endpoint_in_flight_requests",
    "Unfinished requests of this gateway on an endpoint",
    (one) => one.in_flight,
  );
  each(
    "aigw_endpoint_prompt_bytes",
    "Prompt bytes of this gateway before their first token",
    (one) => one.prompt_bytes,
  );
  each("aigw_endpoint_dispatched_total", "Requests sent to an endpoint, retries included", (one) => one.dispatched);
  each("aigw_endpoint_waiting_requests", "Requests waiting in the engine", (one) => one.waiting);
  each("aigw_endpoint_running_requests", "Requests running in the engine", (one) => one.running);
  each("aigw_endpoint_kv_usage_ratio", "Share of the engine's KV cache in use", (one) => one.kv_usage);
  each(
    "aigw_endpoint_max_in_flight_requests",
    "Requests that an endpoint is sent at once, at most",
    (one) => one.max_in_flight,
  );
  each(
    "aigw_endpoint_prefix_hit_ratio",
    "Share of prompt tokens that the engine found in its prefix cache, as it tells",
    (one) => one.prefix_hit_ratio,
  );
  text.family("aigw_endpoint_state", "gauge", "1 for the state that an endpoint is in");
  for (const { cluster, endpoint, state } of endpoints) {
    for (const name of STATES) {
      text.sample(
        "aigw_endpoint_state",
        { cluster, endpoint, state: name },
        state === name ? 1 : 0,
      );
    }
  }
}
