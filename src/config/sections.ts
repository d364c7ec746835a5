// SPDX-License-Identifier: Apache-2.0
// The sections of the configuration that are limits, times and addresses: one zod schema each, every field with its
// default and unit. Names follow the configuration files that users of the system bring along.

import { z } from "zod";
import { parseAddress } from "../base/address.ts";

const positive = (max: number) => z.int().min(1).max(max);

/** HOST:PORT as a string. */
export const addressSchema = z.string().refine((text) => parseAddress(text) !== undefined, {
  error: "expected HOST:PORT, for example 127.0.0.1:10000 or [::1]:10000",
});

export const POLICIES = [
  "late_binding",
  "expected_ttft",
  "slo",
  "inference_lb",
  "least_request",
  "round_robin",
  "random",
] as const;
export type PolicyName = (typeof POLICIES)[number];

/** Limits that the shared memory is planned from. */
export const MEMORY_LIMITS = [
  "endpoints",
  "clusters",
  "models",
  "tenants",
  "requests_in_flight",
  "prefixes",
  "prompt_chunks",
  "stored_responses",
  "metric_series",
] as const;

export const limitsSchema = z.strictObject({
  endpoints: positive(65_536).default(2_048).describe("Endpoint rows over all clusters, in groups of 16 a cluster"),
  clusters: positive(4_096).default(256).describe("Clusters"),
  models: positive(4_096).default(256).describe("Models in model_mapping_rule"),
  requests_in_flight: positive(1_048_576).default(8_192).describe("Requests in flight in each worker"),
  prefixes: positive(33_554_432).default(524_288).describe("Prompt prefixes remembered, 72 bytes each"),
  kv_blocks: positive(67_108_864).default(1_048_576).describe(
    "Different blocks of 16 tokens that engines are known to hold, by what they tell of their caches, 40 bytes each",
  ),
  prompt_chunks: z.int().min(16).max(65_536).default(4_096).describe(
    "Chunks of 512 bytes of one prompt that are hashed",
  ),
  body_bytes: positive(1_073_741_824).default(33_554_432).describe("Largest request body"),
  response_header_bytes: positive(1_048_576).default(65_536).describe("Largest response head of an engine"),
  idle_connections_per_endpoint: z.int().min(0).max(65_536).default(256)
    .describe("Idle connections kept to one endpoint by one worker"),
  endpoint_header_bytes: positive(1_048_576).default(32_768).describe(
    "Largest header fields of a client that go to an engine",
  ),
  client_head_bytes: z.int().min(256).max(1_048_576).default(65_536)
    .describe("Direct listeners: longest request line with header fields"),
  client_head_fields: z.int().min(1).max(10_000).default(128).describe("Direct listeners: most header fields"),
  client_connections: z.int().min(0).max(1_048_576).default(16_384)
    .describe("Direct listeners: connections of one worker, 0 for no limit"),
  client_connections_per_address: z.int().min(0).max(1_048_576).default(0)
    .describe("Direct listeners: connections of one client address to one worker, 0 for no limit"),
  url_bytes: z.int().min(64).max(65_000).default(8_192).describe("Longest path and query of a request"),
  whole_answer_bytes: z.int().min(0).max(1_073_741_824).default(1_048_576)
    .describe("Answers up to this size that are no stream are read whole before they go on"),
  event_bytes: positive(1_073_741_824).default(1_048_576).describe("Largest event of a stream that is held together"),
  interim_answers: z.int().min(0).max(1_000).default(16).describe("1xx answers of an engine before its final one"),
  payload_characters: z.int().min(0).max(1_073_741_824).default(4_194_304)
    .describe("Characters that stand for the images, videos and audios of one prompt"),
  tenants: z.int().min(2).max(65_536).default(256)
    .describe("Tenants; trusted names that are not configured share a quarter of them"),
  stored_responses: positive(16_777_216).default(65_536).describe("Stored responses whose engine is remembered"),
  metric_series: z.int().min(64).max(1_048_576).default(4_096)
    .describe("Combinations of model, path, outcome and tenant that a worker counts apart"),
}).prefault({});

export const timeoutsSchema = z.strictObject({
  connect_ms: positive(600_000).default(2_000).describe("Until an endpoint accepts the connection"),
  client_head_ms: positive(3_600_000).default(10_000)
    .describe("Direct listeners: from a connection's begin, or a head's first byte, to the head's end"),
  client_idle_ms: positive(86_400_000).default(120_000).describe("Direct listeners: between two requests of a client"),
  request_body_ms: positive(3_600_000).default(60_000).describe("Until the client has sent its whole body"),
  response_header_ms: positive(86_400_000).default(600_000)
    .describe("Until the engine's response head; a non-streaming answer is generated before it"),
  first_byte_ms: positive(86_400_000).default(600_000)
    .describe("From the engine's response head to the first byte of the body, of a stream to its first token"),
  first_event_hold_ms: z.int().min(0).max(600_000).default(500)
    .describe("How long the head of a stream waits for its first token, so that an error before it can be a status"),
  stream_idle_ms: positive(86_400_000).default(120_000)
    .describe("Between two pieces of the engine's answer; comments and pings are none"),
  heartbeat_ms: positive(86_400_000).default(15_000)
    .describe("A stream that is silent for as long gets a comment: load balancers cut silent connections"),
  leaver_look_ms: z.int().min(0).max(600_000).default(250)
    .describe(
      "How often it is looked whether the clients of requests that wait as long have left (Linux); 0 for never",
    ),
  request_ms: positive(86_400_000).default(3_600_000)
    .describe("From a request's arrival to the end of its answer; the header x-aigw-timeout-ms may ask for less"),
  client_stall_ms: positive(86_400_000).default(600_000)
    .describe("How long a client may take nothing of a streamed answer"),
  idle_connection_ms: positive(3_600_000).default(4_000)
    .describe("How long an idle connection is kept; below the engine's own limit (uvicorn: 5 s)"),
  shutdown_delay_ms: z.int().min(0).max(3_600_000).default(0)
    .describe("After SIGTERM: not ready any more, but still accepting, while load balancers take notice"),
  drain_ms: z.int().min(0).max(86_400_000).default(30_000)
    .describe("For streams in flight after SIGTERM, and for requests on an endpoint that has left the fleet"),
}).prefault({});

export const probesSchema = z.strictObject({
  enabled: z.boolean().default(true),
  health_path: z.string().startsWith("/").default("/health"),
  health_interval_ms: positive(3_600_000).default(1_000).describe(
    "How often endpoints are asked for their health; one that accepts no connection once more after a quarter of it",
  ),
  models_interval_ms: positive(3_600_000).default(5_000).describe(
    "How often engines are asked for their list of models",
  ),
  metrics_path: z.string().startsWith("/").default("/metrics"),
  metrics_interval_ms: positive(3_600_000).default(200)
    .describe(
      "At least: of an engine that is at work five times as long, of an idle one 25 times, unless first tokens that nobody sees or unknown slots make it worth while",
    ),
  metrics_budget_percent: z.number().min(0.01).max(100).default(0.25).describe(
    "Metrics cost an engine time: they are asked for so seldom that this gateway, and those that share what it reads, take no more of it",
  ),
  timeout_ms: positive(600_000).default(1_000),
  unhealthy_after: positive(1_000).default(2).describe("Failures in a row that take an endpoint out"),
  healthy_after: positive(1_000).default(1).describe("Successes in a row that take it back"),
  concurrency: positive(1_024).default(32).describe("Probes under way at once"),
}).prefault({});

export const outliersSchema = z.strictObject({
  enabled: z.boolean().default(true),
  consecutive_failures: positive(1_000).default(3)
    .describe("Connect failures, broken answers, timeouts and 5xx in a row that eject an endpoint"),
  eject_ms: positive(3_600_000).default(5_000).describe("First ejection; each further one is twice as long"),
  max_eject_ms: positive(86_400_000).default(300_000),
  max_ejected_percent: z.number().min(0).max(99).default(50).describe(
    "Of a cluster's endpoints; the last is never ejected",
  ),
  panic_percent: z.number().min(0).max(100).default(1).describe(
    "When fewer of a cluster's endpoints are available, those also serve whose probes fail; 0 for never",
  ),
  silence_factor: z.number().min(0).max(1_000).default(5).describe(
    "Times the predicted time without anything from an endpoint after which it is suspect and its requests move; 0 for never",
  ),
  silence_ms: positive(3_600_000).default(3_000).describe("The same in ms, at least"),
  silence_leaver_ms: positive(3_600_000).default(1_000).describe("At least, where the client leaves"),
  failure_backoff_ms: z.int().min(0).max(600_000).default(1_000)
    .describe("How long an endpoint that failed once is chosen last"),
  backpressure_ms: z.int().min(0).max(600_000).default(1_000)
    .describe("How long an endpoint that answered 429 or 503 without Retry-After is chosen last"),
  max_backpressure_ms: z.int().min(0).max(3_600_000).default(30_000).describe("The same with Retry-After, at most"),
  slow_start_ms: z.int().min(0).max(3_600_000).default(10_000)
    .describe("An endpoint that comes back is scored with the cluster's mean load, fading over this time"),
}).prefault({});

export const retryBudgetSchema = z.strictObject({
  percent: z.number().min(0).max(100).default(20).describe("Retries, in percent of the requests of a worker"),
  min_per_second: z.number().min(0).max(10_000).default(10).describe("Retries a second that a worker may always make"),
}).prefault({});

export const hedgeSchema = z.strictObject({
  percent: z.number().min(0).max(100).default(0)
    .describe("Streams that may have a second attempt at another endpoint, in percent of a worker's; 0 for none"),
  after_percentile: z.number().min(50).max(99.9).default(99)
    .describe("A stream is late when its first token is later than of so many percent of its model"),
  least_ms: positive(600_000).default(100).describe("And at least as late as this"),
}).prefault({});

/** Objectives of the order in which requests wait. */
export const FAIRNESS = ["mean", "balanced", "tail"] as const;

export const queueSchema = z.strictObject({
  head_after_ms: z.int().min(0).max(600_000).default(1_000).describe(
    "A stream that waits longer gets its head: only then the runtime notices that its client left, and errors are events",
  ),
  room_tokens: positive(1_000_000).default(2_048)
    .describe("An endpoint with fewer uncached prompt tokens ahead has room: one prefill chunk of the engine"),
  pack_tokens: z.int().min(0).max(1_000_000).default(8_192)
    .describe(
      "Requests go to an endpoint without room too while all ahead of it, their own included, is no more; not while several tenants or priorities are served in turn",
    ),
  shared_room_tokens: positive(1_000_000).default(8_192)
    .describe("The same where all that is ahead came through other gateways; at least room_tokens"),
  shared_own_tokens: z.int().min(0).max(1_000_000).default(512)
    .describe(
      "Where some of it came through other gateways, room ends when as many tokens ahead are this gateway's own",
    ),
  least_tokens: z.int().min(0).max(100_000).default(100)
    .describe("Prompt tokens that any request counts for: the step that it takes even if all is cached"),
  slack_ms: z.number().min(0).max(600_000).default(300)
    .describe("How much later the first token may come on an endpoint with room than on the best one"),
  charge: z.number().min(0).max(100).default(2)
    .describe("Price of prefill work that another endpoint would not have, where half of the endpoints are busy"),
  stall_charge: z.number().min(0).max(100).default(0.1).describe(
    "Added to that price for each request that an endpoint has in flight in the mean: prefills keep its next token waiting",
  ),
  max_charge: z.number().min(0).max(1_000).default(8),
  fairness: z.enum(FAIRNESS).default("balanced").describe(
    "For whom the order of the waiting is: the mean wait (what is shortest to compute first, however long others wait), the longest waits (nearly the order of arrival), or both",
  ),
  ageing_per_s: z.number().min(0).max(1_000).optional().describe(
    "Order of the waiting: prefill time / (1 + this · seconds waited); by fairness: mean 0, balanced 0.05, tail 0.2",
  ),
  overdue_factor: z.number().min(0).max(1_000).optional().describe(
    "Who has waited longer than this multiple of the time that the backlog takes goes first; by fairness: mean 1,000, balanced 3, tail 0.9",
  ),
  overdue_base_ms: z.number().min(0).max(600_000).default(1_000).describe("Added to that time"),
  request_ms: z.number().min(0).max(10_000).default(5)
    .describe("expected_ttft: what a request in flight costs the next one"),
  balance_ms: z.number().min(0).max(60_000).default(600).describe(
    "late_binding: what it costs a request that an endpoint has twice as many in flight as the mean one",
  ),
  adapter_ms: z.number().min(0).max(600_000).default(200).describe("What it costs an engine to load a LoRA adapter"),
  tie_ms: z.number().min(0).max(10_000).default(2).describe("Endpoints whose costs differ by less are alike"),
  burst_tokens: z.int().min(0).max(1_000_000_000).default(16_384)
    .describe("Tokens that a tenant may be served ahead of its share after it asked for less"),
  refresh_ms: positive(10_000).default(50).describe("How often waiting requests look up again who holds their prompts"),
}).prefault({});
const classSchema = z.strictObject({
  requests: z.int().min(0).max(1_048_576).default(4_096),
  bytes: positive(1_073_741_824).default(1_073_741_824),
  max_wait_ms: positive(86_400_000).default(120_000),
}).prefault({});

export const admissionSchema = z.strictObject({
  critical: classSchema.describe("Bounds of what waits with a priority of 100 and more in one cluster"),
  standard: classSchema.describe("The same from 0 to 99"),
  batch: classSchema.describe("The same below 0"),
  refuse_hopeless: z.boolean().default(true)
    .describe("Refuse at once what cannot keep its objective for the first token by prediction"),
  shed_below: z.int().min(-1_000).max(1_000).default(0)
    .describe("Requests of a lower priority are refused while the cluster is saturated"),
  preempt: z.boolean().default(false)
    .describe("A critical request that waits takes the place of a batch request before its first token"),
  loop_delay_ms: positive(600_000).default(250)
    .describe("A worker whose event loop is late by more takes no more of what may be shed"),
  memory_bytes: z.int().min(0).default(0).describe("The same for the memory of the process; 0 for no such limit"),
  adaptive_concurrency: z.strictObject({
    enabled: z.boolean().default(false).describe(
      "late_binding: learn each endpoint's limit of requests in flight from its latency",
    ),
    min: positive(1_000_000).default(8),
    max: positive(1_000_000).default(512),
    tolerance: z.number().min(1).max(100).default(2),
  }).prefault({}),
}).prefault({});

export const saturationSchema = z.strictObject({
  interval_ms: positive(60_000).default(100),
  waiting: z.number().min(0.1).max(100_000).default(8).describe("Requests that wait in each engine when it is full"),
  kv_usage: z.number().min(0.01).max(1).default(0.95).describe("Share of an engine's KV blocks in use when it is full"),
  in_flight: positive(1_000_000).default(256).describe("Requests in flight on an endpoint without fresh metrics"),
  stale_ms: positive(3_600_000).default(2_000).describe("Older metrics are not believed"),
  backlog_ms: positive(3_600_000).default(10_000).describe("Time that the queue takes when the cluster is full"),
}).prefault({});

export type QueueConfig = z.infer<typeof queueSchema>;

export const corsSchema = z.strictObject({
  origins: z.array(z.string().min(1)).min(1).describe('Origins that may call from a browser, or "*"'),
  max_age_s: z.int().min(0).max(86_400).default(600),
});

export const tlsSchema = z.strictObject({
  listen: addressSchema.describe("A second address, for HTTPS with HTTP/2 and HTTP/1.1"),
  cert_file: z.string().min(1).describe("PEM certificate chain, relative to this file"),
  key_file: z.string().min(1).describe("PEM private key, relative to this file"),
});

export const reloadSchema = z.strictObject({
  watch: z.boolean().default(true).describe("Apply changes of the configuration file and the files that it names"),
  interval_ms: positive(3_600_000).default(500).describe("How often these files are looked at"),
}).prefault({});

export const listenerSchema = z.strictObject({
  address: addressSchema,
  server: z.enum(["direct", "serve"]).default("direct").describe(
    "direct: HTTP/1.1 at half the processor time; serve: the runtime's server, HTTP/1.1 and HTTP/2",
  ),
});

/** What callers of a port that is no client's have to send, and by which names they may call it. */
export const visitorFields = {
  hosts: z.array(
    z.string().toLowerCase().regex(
      /^[^\s:/[\]]*[^\s:/[\].]$/,
      "a host name, without a port and without a dot at its end",
    ),
  ).default([]).describe(
    "Names that it is called by, beside IP addresses and names of private networks: others are refused, as web pages could use them",
  ),
  token_file: z.string().min(1).optional().describe(
    "File with the token that callers have to send, as Authorization: Bearer TOKEN, relative to this file",
  ),
  token_env: z.string().min(1).optional().describe("Environment variable with that token"),
};

export const adminSchema = z.strictObject({
  listen: addressSchema.default("127.0.0.1:15000"),
  metric_names: z.array(z.enum(["go", "inference_extension"])).default([]).describe(
    "Other names that metrics are shown by too: those of the Go gateway, those of endpoint pickers",
  ),
  ...visitorFields,
  tls: z.strictObject({
    cert_file: z.string().min(1).describe("PEM certificate chain, relative to this file"),
    key_file: z.string().min(1).describe("PEM private key, relative to this file"),
  }).optional().describe("It is served by HTTPS"),
}).prefault({});

export const predictionSchema = z.strictObject({
  bytes_per_token: z.number().min(0.1).max(100).default(4).describe("Prompt bytes to a token, until it is learned"),
  output_tokens: positive(10_000_000).default(512)
    .describe("Tokens that an answer is expected to have whose request sets no maximum, until that is learned"),
  prefill_tokens_per_s: positive(100_000_000).default(8_000).describe("Speed of an endpoint, until it is learned"),
  method: z.enum(["least_squares", "moving_average"]).default("least_squares")
    .describe(
      "How prefill times are predicted; AIGW_USE_MOVING_AVERAGE=enable is moving_average: by KiB of the prompt",
    ),
  forgetting: z.number().min(0.5).max(1).default(0.97)
    .describe("Weight of what a latency model learned before each further request; 1 forgets nothing"),
  state_file: z.string().min(1).optional().describe("Keeps what was learned over restarts, relative to this file"),
  save_interval_ms: positive(86_400_000).default(60_000),
  first_token_margin: z.number().min(0.1).max(100).default(1.2)
    .describe("A non-streaming request's prompt load is released at this multiple of its predicted TTFT"),
}).prefault({});
