// SPDX-License-Identifier: Apache-2.0
// The metadata center: embedded with its own listener and perhaps peers, or a remote one. Existing deployments configure
// the remote one by environment variables; those that are set win over the file.

import { z } from "zod";
import { accessLogSchema, FLAGS } from "./log.ts";
import { addressSchema, visitorFields } from "./sections.ts";

const ms = (standard: number) => z.int().min(1).max(604_800_000).default(standard);

export const metadataCenterSchema = z.strictObject({
  enabled: z.boolean().default(true).describe("false: this gateway knows its own load only"),
  listen: addressSchema.optional()
    .describe("Where the embedded center serves its API; 127.0.0.1:8080, if that is free, when not set"),
  tls: z.strictObject({
    cert_file: z.string().min(1).describe("PEM certificate chain, relative to this file"),
    key_file: z.string().min(1).describe("PEM private key, relative to this file"),
  }).optional().describe("The embedded center serves HTTPS there"),
  https: z.strictObject({
    ca_file: z.string().min(1).optional().describe(
      "PEM certificates to trust beside the system's, relative to this file",
    ),
  }).optional().describe(
    "A remote center, and peers, are reached by HTTPS; their certificates are for their addresses",
  ),
  ...visitorFields,
  access_log: accessLogSchema.describe("The embedded center writes a line for every request"),
  peers: z.array(addressSchema).default([]).describe("Other centers that changes are replicated to, this one left out"),
  peers_dns: addressSchema.optional().describe("NAME:PORT of all centers, looked up every dns_lookup_interval_ms"),
  host: z.string().min(1).optional().describe("A remote center, an IP or a DNS name, instead of the embedded one"),
  port: z.int().min(1).max(65_535).default(80),
  cache_enable: z.boolean().default(true).describe("Share which engine holds which prefix"),
  share_metrics: z.boolean().default(true).describe(
    "One gateway of those that know each other asks an engine for its metrics and tells the others",
  ),
  go_prefixes: z.boolean().default(false).describe(
    "Hash chats as the Go gateway does, to share prefixes with it; tools and reasoning then count for nothing",
  ),
  report_interval_ms: ms(4).describe("How often this gateway's requests are looked through for changes"),
  sync_interval_ms: ms(50).describe("Polling interval for a center without a watch stream, jittered"),
  lease_ms: ms(3_000).describe("The embedded center drops a gateway's load this long after it was last heard of"),
  expiry_ms: ms(660_000).describe("The embedded center drops what has no lease, and was untouched, for this long"),
  gc_interval_ms: ms(60_000).describe("How often it looks for that"),
  stale_after_ms: ms(1_000).describe("Age of the others' figures from which on they count less"),
  fade_ms: ms(3_000).describe("From there until they count nothing"),
  dns_lookup_interval_ms: ms(5_000),
  cold_start_delay_ms: z.int().min(0).max(604_800_000).default(600_000)
    .describe("A newly seen center is asked only when no warmer one is available"),
  endpoint_max_failures: z.int().min(1).default(10),
  endpoint_cooldown_ms: ms(5_000),
  endpoint_half_open_requests: z.int().min(1).default(3),
  max_failover_retry: z.int().min(0).default(1),
  queue_size: z.int().min(1).max(10_000_000).default(10_000).describe(
    "Changes waiting for a cluster's center or a peer",
  ),
  limits: z.strictObject({
    requests: z.int().min(1).max(10_000_000).default(1_000_000),
    prefixes: z.int().min(1).max(100_000_000).default(1_000_000),
    clusters: z.int().min(1).max(65_536).default(4_096),
    engines: z.int().min(1).max(1_000_000).default(65_536),
    gateways: z.int().min(1).max(65_536).default(4_096),
    watchers: z.int().min(1).max(65_536).default(4_096),
  }).prefault({}).describe("What the embedded center holds at once; more is refused, of prefixes the oldest go"),
  update_stats_timeout_ms: ms(100),
  fetch_metric_timeout_ms: ms(100),
}).prefault({});

export type MetadataCenterConfig = z.infer<typeof metadataCenterSchema>;

type Reader = (text: string) => unknown;

const flag: Reader = (text) => FLAGS[text];
const count: Reader = (text) => /^\d+$/.test(text) ? Number(text) : undefined;
const word: Reader = (text) => text;

const DURATION_UNITS: Record<string, number> = {
  ns: 1e-6,
  us: 1e-3,
  "µs": 1e-3,
  "μs": 1e-3,
  ms: 1,
  s: 1_000,
  m: 60_000,
  h: 3_600_000,
};

/** Go's durations: 5s, .5s, 10m, 100us, 1h30m, 0; milliseconds, undefined for anything else. */
export function parseDuration(text: string): number | undefined {
  if (/^[+-]?0$/.test(text)) return 0;
  if (!/^\+?((\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h))+$/.test(text)) return undefined;
  let total = 0;
  for (const [, number, unit] of text.matchAll(/(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)/g)) {
    total += Number(number) * DURATION_UNITS[unit];
  }
  return total;
}

const seconds: Reader = (text) => parseDuration(/^\d+$/.test(text) ? `${text}s` : text);
// Whole milliseconds, at least one; a bare number is of those.
const time: Reader = (text) => {
  const ms = parseDuration(/^\d+$/.test(text) ? `${text}ms` : text);
  return ms === undefined ? undefined : Math.max(1, Math.ceil(ms));
};
const delay: Reader = (text) => {
  const ms = parseDuration(/^\d+$/.test(text) ? `${text}ms` : text);
  return ms === undefined ? undefined : Math.ceil(ms);
};

const VARIABLES: [name: string, key: keyof MetadataCenterConfig, read: Reader][] = [
  ["AIGW_META_DATA_CENTER_HOST", "host", word],
  ["AIGW_META_DATA_CENTER_PORT", "port", count],
  ["AIGW_META_DATA_CENTER_ENABLE", "enabled", flag],
  ["AIGW_META_DATA_CENTER_CACHE_ENABLE", "cache_enable", flag],
  ["AIGW_META_DATA_CENTER_DNS_LOOKUP_INTERVAL", "dns_lookup_interval_ms", time],
  ["AIGW_META_COLD_START_DELAY", "cold_start_delay_ms", delay],
  ["AIGW_METADATA_CENTER_ENDPOINT_MAX_FAILURES", "endpoint_max_failures", count],
  ["AIGW_METADATA_CENTER_ENDPOINT_COOLDOWN_SECONDS", "endpoint_cooldown_ms", seconds],
  ["AIGW_METADATA_CENTER_ENDPOINT_HALF_OPEN_REQUESTS", "endpoint_half_open_requests", count],
  ["AIGW_META_MAX_FAILOVER_RETRY", "max_failover_retry", count],
  ["AIGW_METADATA_CENTER_QUEUE_SIZE", "queue_size", count],
  ["AIGW_METADATA_CENTER_UPDATE_STATS_TIMEOUT", "update_stats_timeout_ms", time],
  ["AIGW_METADATA_CENTER_FETCH_METRIC_TIMEOUT", "fetch_metric_timeout_ms", time],
  ["METADATA_CENTER_LOAD_GC_INTERVAL", "gc_interval_ms", time],
  ["METADATA_CENTER_LOAD_REQ_EXPIRE", "expiry_ms", time],
];

/** Applies the variables that are set; returns what is wrong with them. */
export function applyCenterEnvironment(
  config: MetadataCenterConfig,
  environment: { get(name: string): string | undefined },
): { path: string; message: string }[] {
  const issues: { path: string; message: string }[] = [];
  for (const [name, key, read] of VARIABLES) {
    const text = environment.get(name);
    if (text === undefined || text === "") continue;
    const changed = metadataCenterSchema.safeParse({ ...config, [key]: read(text) });
    if (read(text) !== undefined && changed.success) Object.assign(config, changed.data);
    else issues.push({ path: name, message: `"${text}" is not accepted here` });
  }
  return issues;
}

/** Variables of the Go gateway and its center that mean nothing here, and what is in their place. */
const WITHOUT_EFFECT: [name: RegExp, instead: string][] = [
  [
    /^AIGW_META_DATA_CACHE_FETCH_TIMEOUT$/,
    "prefixes of the others come by the watch stream, nothing is asked on a request's way",
  ],
  [
    /^AIGW_METADATA_CENTER_(WORKER_COUNT|MAX_RETRY)$/,
    "changes go in batches and are repaired as a whole: metadata_center.queue_size",
  ],
  [
    /^AIGW_METADATA_CENTER_(CLIENT_|KEEPALIVE|MAX_IDLE_CONNS|IDEL_CONNECT_TIMEOUT)/,
    "metadata_center.update_stats_timeout_ms and fetch_metric_timeout_ms bound every call",
  ],
  [/^AIGW_PROMETHEUS_ADDRESS$/, "admin.listen serves /metrics"],
  [/^AIGW_PPROF_ADDRESS$/, "the runtime's --inspect and --cpu-prof"],
  [/^META_DATA_CENTER_SVC_DISC_HOST$/, "metadata_center.peers_dns"],
  [/^REPLICA_/, "metadata_center.peers and peers_dns"],
  [/^METADATA_CENTER_CACHE_(GC_INTERVAL|EXPIRE)$/, "the prefixes saved longest ago go when there are too many"],
  [/^METADATA_CENTER_CACHE_TOPK$/, "topk of a query; 10 without"],
  [/^METADATA_CENTER_DEBUG_MODE$/, "POST /log/level with DEBUG"],
];

/** Notes on variables that are set and have no effect. */
export function environmentNotes(environment: Readonly<Record<string, string>>): string[] {
  return Object.keys(environment).flatMap((name) => {
    const [, instead] = WITHOUT_EFFECT.find(([pattern]) => pattern.test(name)) ?? [];
    return instead === undefined ? [] : [`the environment variable ${name} has no effect here: ${instead}`];
  });
}
