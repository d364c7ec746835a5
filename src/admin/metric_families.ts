// SPDX-License-Identifier: Apache-2.0
// Every metric of /metrics: its name, what it tells, and by what. The reference in docs/metrics.md is made of this list.

import { CALL_BUCKETS_US } from "../metadata/call_stats.ts";
import { DECISION_BUCKETS, DURATION_BUCKETS, RETRY_REASONS, TOKEN_BUCKETS } from "../telemetry/cells.ts";
import type { Family } from "../telemetry/prometheus.ts";

function family(
  type: Family["type"],
  name: string,
  labels: readonly string[],
  help: string,
  bounds?: readonly number[],
): Family {
  return { name, type, help, labels, bounds };
}
const counter = family.bind(undefined, "counter");
const gauge = family.bind(undefined, "gauge");
const histogram = family.bind(undefined, "histogram");
const summary = family.bind(undefined, "summary");

const ENDPOINT = ["cluster", "endpoint"];
const SERIES = ["model", "path", "outcome", "tenant"];

/** The gateway's own metrics, by section. */
export const FAMILIES = {
  version: gauge("aigw_version", ["version"], "1 for the running version"),

  // Requests
  requests: counter("aigw_requests_total", SERIES, "Requests ended"),
  requestSeconds: counter(
    "aigw_request_seconds_total",
    SERIES,
    "Seconds that they took, from the request to the end of its answer",
  ),
  duration: histogram(
    "aigw_request_duration_seconds",
    ["model"],
    "From the request to the end of its answer",
    DURATION_BUCKETS,
  ),
  ttft: histogram(
    "aigw_ttft_seconds",
    ["model", "answer"],
    "From the request to the first token of a stream, or to the head of a whole answer",
    DURATION_BUCKETS,
  ),
  tokenTime: histogram(
    "aigw_time_per_output_token_seconds",
    ["model"],
    "Mean time between the tokens of a stream",
    TOKEN_BUCKETS,
  ),
  queue: histogram("aigw_queue_seconds", ["model"], "How long requests waited for an endpoint", DURATION_BUCKETS),
  decision: histogram("aigw_decision_seconds", [], "What a decision for an endpoint took by itself", DECISION_BUCKETS),
  promptTokens: counter("aigw_prompt_tokens_total", ["model"], "Prompt tokens, as the engines counted them"),
  completionTokens: counter(
    "aigw_completion_tokens_total",
    ["model"],
    "Generated tokens, as the engines counted them; of cut streams those that came",
  ),
  cachedTokens: counter("aigw_cached_prompt_tokens_total", ["model"], "Prompt tokens that came from a prefix cache"),
  usageAnswers: counter("aigw_usage_answers_total", ["model"], "Answers that told their usage"),
  promptBytes: counter("aigw_prompt_bytes_total", ["model"], "Prompt bytes of requests that were answered"),
  presumedBytes: counter(
    "aigw_presumed_cached_bytes_total",
    ["model"],
    "Of them, those that the endpoint was presumed to hold in its prefix cache",
  ),
  streamPieces: counter("aigw_stream_pieces_total", [], "Pieces of streamed answers relayed"),
  responseBytes: counter("aigw_response_bytes_total", [], "Bytes of answers relayed"),

  // Tries
  retries: counter(
    "aigw_retries_total",
    ["reason"],
    `Requests moved to another endpoint (${RETRY_REASONS.join(", ")})`,
  ),
  retriesRefused: counter("aigw_retries_refused_total", [], "Retries that the retry budget did not allow"),
  replicaFaults: counter(
    "aigw_replica_faults_total",
    [],
    "Requests that an endpoint rejected and a peer answered",
  ),
  suspicions: counter(
    "aigw_suspicions_total",
    [],
    "Requests that waited in vain for an endpoint that said nothing",
  ),
  hedges: counter("aigw_hedges_total", [], "Second attempts of streams that were late"),
  hedgesWon: counter("aigw_hedges_won_total", [], "Second attempts that were the answer"),
  connectFailures: counter("aigw_connect_failures_total", [], "Connections that an endpoint did not accept"),

  // Tenants and admission
  tenantRequests: counter("aigw_tenant_requests_total", ["tenant"], "Requests of a tenant that went to an engine"),
  tenantRefused: counter("aigw_tenant_refused_total", ["tenant"], "Requests of a tenant that did not"),
  tenantPromptTokens: counter("aigw_tenant_prompt_tokens_total", ["tenant"], "Prompt tokens of a tenant"),
  tenantCompletionTokens: counter("aigw_tenant_completion_tokens_total", ["tenant"], "Generated tokens of a tenant"),
  tenantConcurrency: gauge(
    "aigw_tenant_concurrency",
    ["tenant"],
    "Requests of a tenant with a concurrency limit under way",
  ),
  tenantWaiting: gauge(
    "aigw_tenant_waiting_requests",
    ["tenant"],
    "Requests of a tenant that wait for an endpoint",
  ),
  saturation: gauge(
    "aigw_cluster_saturation_ratio",
    ["cluster"],
    "How full a cluster is; from 1 on, low priorities are refused",
  ),
  queueLockWaits: counter(
    "aigw_queue_lock_waits_total",
    ["cluster"],
    "Decisions that found the lock of the cluster's queue taken by another worker's",
  ),

  // Prediction
  ttftSamples: counter(
    "aigw_ttft_samples_total",
    ["model"],
    "First tokens that the model's latency model has learned from",
  ),
  ttftError: gauge(
    "aigw_ttft_prediction_error_ratio",
    ["model"],
    "Moving median of the relative error of predicted times to the first token",
  ),
  bytesPerToken: gauge("aigw_prompt_bytes_per_token", ["model"], "Prompt bytes to a token, as learned"),

  // Clusters and endpoints
  clusters: gauge("aigw_clusters", [], "Clusters"),
  clusterEndpoints: gauge("aigw_cluster_endpoints", ["cluster", "state"], "Endpoints of a cluster, by state"),
  rules: gauge("aigw_model_rules", [], "Rules that map models to clusters"),
  loadBalancingRules: gauge("aigw_load_balancing_rules", [], "Models with load-balancing rules of their own"),
  endpointState: gauge("aigw_endpoint_state", [...ENDPOINT, "state"], "1 for the state that an endpoint is in"),
  endpointInFlight: gauge(
    "aigw_endpoint_in_flight_requests",
    ENDPOINT,
    "Unfinished requests of this gateway on an endpoint",
  ),
  endpointRemoteInFlight: gauge(
    "aigw_endpoint_remote_in_flight_requests",
    ENDPOINT,
    "The same of the other gateways, as the metadata center tells",
  ),
  endpointPromptBytes: gauge(
    "aigw_endpoint_waiting_prompt_bytes",
    ENDPOINT,
    "Prompt bytes of this gateway before their first token",
  ),
  endpointDispatched: counter(
    "aigw_endpoint_dispatched_total",
    ENDPOINT,
    "Requests sent to an endpoint, retries included",
  ),
  endpointAnswered: counter("aigw_endpoint_answered_total", ENDPOINT, "Requests that ended with its answer"),
  endpointFailed: counter("aigw_endpoint_failed_total", ENDPOINT, "Requests that ended with its failure"),
  endpointEjections: counter("aigw_endpoint_ejections_total", ENDPOINT, "How often it was ejected for its failures"),
  endpointFailures: gauge("aigw_endpoint_consecutive_failures", ENDPOINT, "Failures since its last success"),
  endpointTtft: summary(
    "aigw_endpoint_ttft_seconds",
    ENDPOINT,
    "From the sending to the first token of its answers",
  ),
  endpointSentBytes: counter("aigw_endpoint_prompt_bytes_total", ENDPOINT, "Prompt bytes of requests that it answered"),
  endpointPresumedBytes: counter(
    "aigw_endpoint_presumed_cached_bytes_total",
    ENDPOINT,
    "Of them, those that it was presumed to hold in its prefix cache",
  ),
  endpointPromptTokens: counter(
    "aigw_endpoint_prompt_tokens_total",
    ENDPOINT,
    "Prompt tokens, as its answers counted them",
  ),
  endpointCachedTokens: counter(
    "aigw_endpoint_cached_prompt_tokens_total",
    ENDPOINT,
    "Of them, those from its prefix cache, as its answers tell",
  ),
  endpointWaiting: gauge("aigw_endpoint_waiting_requests", ENDPOINT, "Requests waiting in the engine"),
  endpointRunning: gauge("aigw_endpoint_running_requests", ENDPOINT, "Requests running in the engine"),
  endpointKvUsage: gauge("aigw_endpoint_kv_usage_ratio", ENDPOINT, "Share of the engine's KV cache in use"),
  endpointMaxInFlight: gauge(
    "aigw_endpoint_max_in_flight_requests",
    ENDPOINT,
    "Requests that an endpoint is sent at once, at most",
  ),
  endpointHitRatio: gauge(
    "aigw_endpoint_prefix_hit_ratio",
    ENDPOINT,
    "Share of prompt tokens that the engine found in its prefix cache, as its metrics tell",
  ),
  endpointKvExact: gauge(
    "aigw_endpoint_kv_events_exact",
    ENDPOINT,
    "1 while its engine tells all that its KV cache holds, 0 while that is presumed",
  ),
  endpointKvBlocks: gauge("aigw_endpoint_kv_blocks", ENDPOINT, "Blocks that it holds, as its engine tells"),
  endpointKvBatches: counter("aigw_endpoint_kv_event_batches_total", ENDPOINT, "Batches of events of its KV cache"),
  endpointKvLost: counter(
    "aigw_endpoint_kv_event_batches_lost_total",
    ENDPOINT,
    "Batches that were missed and could not be had any more",
  ),
  endpointKvLag: gauge(
    "aigw_endpoint_kv_event_lag_seconds",
    ENDPOINT,
    "How much later than the quickest its events come, as a moving mean",
  ),
  endpointMetricsAge: gauge("aigw_endpoint_metrics_age_seconds", ENDPOINT, "Since its metrics were last read"),

  blocksLost: counter(
    "aigw_kv_blocks_lost_total",
    [],
    "Blocks that engines hold and limits.kv_blocks has no place for",
  ),

  // Configuration and discovery
  reloads: counter(
    "aigw_config_reload_total",
    ["result"],
    "Looks at a changed configuration, by what came of them",
  ),
  reloadedAt: gauge(
    "aigw_config_last_reload_success_timestamp_seconds",
    [],
    "When the configuration was last read and found valid",
  ),
  discoveryUp: gauge("aigw_discovery_up", ["source"], "Whether a source of endpoints works"),
  discoveryAge: gauge("aigw_discovery_age_seconds", ["source"], "Since a source of endpoints last told them"),
  discoveryFailures: counter("aigw_discovery_failures_total", ["source"], "Failures of a source of endpoints"),
  discoveryEndpoints: gauge("aigw_discovery_endpoints", ["source"], "Endpoints that a source tells"),
  unplaced: gauge(
    "aigw_endpoints_without_row",
    [],
    "Endpoints that limits.endpoints has no room for",
  ),

  // Metadata center
  centerState: gauge("aigw_metadata_center_state", ["center"], "0 in use, 1 on trial after failures, 2 left alone"),
  centerAge: gauge(
    "aigw_metadata_center_age_seconds",
    ["cluster"],
    "Since the cluster's metadata center was last heard of",
  ),
  remoteWeight: gauge("aigw_remote_load_weight", ["cluster"], "Share of the other gateways' load that is counted"),
  centerDropped: counter(
    "aigw_metadata_center_dropped_total",
    ["center"],
    "Changes that were not delivered and are repaired later",
  ),
  savesDropped: counter(
    "aigw_saved_prefixes_dropped_total",
    [],
    "Prefixes not handed on to the metadata center",
  ),
  centerCalls: histogram(
    "aigw_metadata_center_call_seconds",
    ["center", "method", "path"],
    "What calls of a metadata center took",
    CALL_BUCKETS_US.map((us) => us / 1e6),
  ),

  // The process
  workersServing: gauge("aigw_workers_serving", [], "Data plane workers that serve"),
  workerRestarts: counter("aigw_worker_restarts_total", [], "Data plane workers that were replaced"),
  loopDelay: histogram(
    "aigw_event_loop_delay_seconds",
    [],
    "How much later than asked timers of the workers fired",
    DURATION_BUCKETS,
  ),
  heapUsed: gauge("aigw_worker_heap_bytes", ["worker"], "Heap of a worker in use"),
  allocated: counter("aigw_worker_allocated_bytes_total", ["worker"], "Heap that a worker has allocated"),
  sharedMemory: gauge("aigw_shared_memory_bytes", [], "The shared memory, as planned from the limits"),
  tableRows: gauge(
    "aigw_table_rows",
    ["table", "state"],
    "Rows of the shared memory, in use or of names that are going",
  ),
  tableLimit: gauge("aigw_table_limit_rows", ["table"], "Rows that there are, by the limits"),
  clientConnections: gauge("aigw_client_connections", [], "Connections of clients to direct listeners"),
  clientsRefused: counter(
    "aigw_client_connections_refused_total",
    [],
    "Connections to direct listeners beyond their limits",
  ),
  accessLogDropped: counter("aigw_access_log_dropped_total", [], "Access log lines dropped by a full buffer or disk"),
  llmLogDropped: counter(
    "aigw_llm_log_dropped_total",
    [],
    "Lines of the log of texts dropped by a full buffer or disk",
  ),
  residentMemory: gauge("process_resident_memory_bytes", [], "Resident memory of the process"),
  cpuSeconds: counter("process_cpu_seconds_total", [], "Processor time of the process"),
  startTime: gauge("process_start_time_seconds", [], "When the process started, since the epoch"),
  openFiles: gauge("process_open_fds", [], "Open file descriptors"),
} satisfies Record<string, Family>;

/** What other systems call the same, where admin.metric_names asks for them. */
export const ALIASES = {
  go: {
    clusters: gauge("watched_clusters_total", [], "Clusters known"),
    clusterEndpoints: gauge("watched_cluster_endpoints", ["cluster"], "Endpoints of a cluster"),
    labels: gauge("watched_cluster_labels", ["cluster", "endpoint_address"], "Labels of an endpoint"),
    rules: gauge("aigw_rule_total", [], "Model mapping rules"),
    loadBalancingRules: gauge("aigw_lbconfig_total", [], "Load-balancing rules"),
    centerState: gauge(
      "aigw_servicediscovery_circuitbreaker_state",
      ["host"],
      "0 closed, 1 half-open, 2 open",
    ),
    centerRequests: counter(
      "metacenter_http_requests_total",
      ["instance", "method", "path"],
      "Calls that a metadata center answered",
    ),
    centerMicroseconds: histogram(
      "metacenter_http_request_duration_us",
      ["instance", "method", "path"],
      "How long these calls took",
      CALL_BUCKETS_US,
    ),
  },
  inference_extension: {
    readyPods: gauge("inference_pool_ready_pods", ["name"], "Endpoints of a cluster that are available"),
    averageQueue: gauge(
      "inference_pool_average_queue_size",
      ["name"],
      "Requests waiting in an engine of a cluster, on average",
    ),
    averageKvUsage: gauge(
      "inference_pool_average_kv_cache_utilization",
      ["name"],
      "Share of an engine's KV cache in use, on average of a cluster",
    ),
    averageRunning: gauge(
      "inference_pool_average_running_requests",
      ["name"],
      "Requests running in an engine of a cluster, on average",
    ),
    podQueue: gauge(
      "inference_pool_per_pod_queue_size",
      ["name", "model_server_pod"],
      "Requests waiting in an engine",
    ),
    requests: counter(
      "inference_objective_request_total",
      ["model_name", "target_model_name"],
      "Requests of a model",
    ),
    errors: counter(
      "inference_objective_request_error_total",
      ["model_name", "target_model_name", "error_code"],
      "Requests of a model that were not answered, by reason",
    ),
    duration: histogram(
      "inference_objective_request_duration_seconds",
      ["model_name", "target_model_name"],
      "From the request to the end of its answer",
      DURATION_BUCKETS,
    ),
    scheduling: histogram(
      "inference_extension_scheduler_e2e_duration_seconds",
      [],
      "What a decision for an endpoint took",
      DECISION_BUCKETS,
    ),
  },
} satisfies Record<string, Record<string, Family>>;

export type AliasName = keyof typeof ALIASES;
