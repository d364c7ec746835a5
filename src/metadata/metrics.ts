// SPDX-License-Identifier: Apache-2.0
// The metadata center's own metrics, under the names of the Go center.

import { Histogram } from "../telemetry/histogram.ts";
import { type Family, MetricsText } from "../telemetry/prometheus.ts";
import type { Center } from "./center.ts";
import { engineKey } from "./engine_address.ts";

const DURATION_BUCKETS_US = [500, 1_000, 2_000];
const LATENCY_BUCKETS_MS = [1, 2, 4, 8, 16, 32, 64, 128];
/** Paths that are not counted: probes and scrapes. */
const UNCOUNTED = new Set(["/", "/metrics"]);
/** Domains that are told apart; a stranger's must not make series without end. */
const MAX_DOMAINS = 1_000;

export class CenterMetrics {
  readonly #answers = new Map<string, { labels: Record<string, string>; count: number }>();
  readonly #durations = new Map<string, { labels: Record<string, string>; duration: Histogram }>();
  readonly #domains = new Map<string, number>();
  readonly #replication = new Histogram(LATENCY_BUCKETS_MS);
  readonly #hosts = new Map<string, string[]>();

  constructor(readonly version: string) {}

  /** `domain`: of the query, where there is one. */
  answered(method: string, path: string, domain: string | null, status: number, ms: number): void {
    if (UNCOUNTED.has(path)) return;
    const known = path.startsWith("/v1/") && status !== 404 || path === "/log/level";
    const [url, verb] = known ? [path, method] : ["other", "other"];
    const key = `${verb} ${url}`;
    let answers = this.#answers.get(`${key} ${status}`);
    if (!answers) {
      answers = { labels: { url, method: verb, status_code: String(status) }, count: 0 };
      this.#answers.set(`${key} ${status}`, answers);
    }
    answers.count++;
    let timed = this.#durations.get(key);
    if (!timed) {
      timed = { labels: { method: verb, url }, duration: new Histogram(DURATION_BUCKETS_US) };
      this.#durations.set(key, timed);
    }
    timed.duration.observe(ms * 1_000);
    if (!domain || (!this.#domains.has(domain) && this.#domains.size >= MAX_DOMAINS)) return;
    this.#domains.set(domain, (this.#domains.get(domain) ?? 0) + 1);
  }

  /** Milliseconds from a change's timestamp to its arrival here. */
  replicated(ms: number): void {
    if (ms >= 0) this.#replication.observe(ms);
  }

  /** Hosts that a peers' name stood for at the last look-up. */
  lookedUp(domain: string, hosts: string[]): void {
    this.#hosts.set(domain, hosts);
  }

  text(center: Center): string {
    const text = new MetricsText("prometheus", true).add(FAMILIES.version, { version: this.version }, 1);
    for (const model_name of center.clusterNames()) {
      const loads = center.loads(model_name) ?? [];
      text.add(FAMILIES.engines, { model_name }, loads.length);
      for (const load of loads) {
        const labels = { model_name, engine_ip: engineKey(load) };
        text.add(FAMILIES.queued, labels, load.queued).add(FAMILIES.promptLength, labels, load.promptLength);
      }
    }
    text.add(FAMILIES.leases, {}, center.gateways);
    for (const { labels, count } of this.#answers.values()) text.add(FAMILIES.answers, labels, count);
    for (const { labels, duration } of this.#durations.values()) {
      text.addHistogram(FAMILIES.durations, labels, duration);
    }
    for (const [domain, count] of this.#domains) text.add(FAMILIES.domains, { domain }, count);
    text.add(FAMILIES.alive, {}, 1).addHistogram(FAMILIES.replication, {}, this.#replication);
    for (const [domain, hosts] of this.#hosts) for (const host of hosts) text.add(FAMILIES.hosts, { domain, host }, 1);
    return text.toString();
  }
}

const FAMILIES = {
  version: { name: "app_version_info", type: "gauge", labels: ["version"], help: "The running version" },
  engines: { name: "model_engine_count", type: "gauge", labels: ["model_name"], help: "Engines of a cluster" },
  queued: {
    name: "queued_num",
    type: "gauge",
    labels: ["model_name", "engine_ip"],
    help: "Unfinished requests on an engine",
  },
  promptLength: {
    name: "prompt_length",
    type: "gauge",
    labels: ["model_name", "engine_ip"],
    help: "Prompt bytes before their first token on an engine",
  },
  leases: { name: "gateway_leases", type: "gauge", labels: [], help: "Gateways with a lease" },
  answers: {
    name: "http_request_status_code_total",
    type: "counter",
    labels: ["url", "method", "status_code"],
    help: "Answers by status",
  },
  durations: {
    name: "http_request_duration_us",
    type: "histogram",
    labels: ["method", "url"],
    help: "Time to answer",
    bounds: DURATION_BUCKETS_US,
  },
  domains: {
    name: "domain_requests_total",
    type: "counter",
    labels: ["domain"],
    help: "Requests by the domain of their query",
  },
  alive: { name: "metacenter_node_alive", type: "gauge", labels: [], help: "1 while it serves" },
  replication: {
    name: "replication_latency_ms",
    type: "histogram",
    labels: [],
    help: "From a change to its arrival here",
    bounds: LATENCY_BUCKETS_MS,
  },
  hosts: { name: "dns_lookup_hosts", type: "gauge", labels: ["domain", "host"], help: "Hosts behind a peers' name" },
} satisfies Record<string, Family>;
