// SPDX-License-Identifier: Apache-2.0
// The metadata center's own metrics, under the names of the Go center.

import { Histogram } from "../telemetry/histogram.ts";
import { PrometheusText } from "../telemetry/prometheus.ts";
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
    const text = new PrometheusText();
    text.family("app_version_info", "gauge", "The running version").sample("app_version_info", {
      version: this.version,
    }, 1);
    text.family("model_engine_count", "gauge", "Engines of a cluster");
    const clusters = center.clusterNames().map((name) => ({ name, loads: center.loads(name) ?? [] }));
    for (const { name, loads } of clusters) text.sample("model_engine_count", { model_name: name }, loads.length);
    text.family("queued_num", "gauge", "Unfinished requests on an engine");
    for (const { name, loads } of clusters) {
      for (const load of loads) {
        text.sample(
          "queued_num",
          { model_name: name, engine_ip: engineKey(load) },
          load.queued,
        );
      }
    }
    text.family("prompt_length", "gauge", "Prompt bytes before their first token on an engine");
    for (const { name, loads } of clusters) {
      for (const load of loads) {
        text.sample(
          "prompt_length",
          { model_name: name, engine_ip: engineKey(load) },
          load.promptLength,
        );
      }
    }
    text.family("gateway_leases", "gauge", "Gateways with a lease").sample("gateway_leases", {}, center.gateways);
    text.family("http_request_status_code_total", "counter", "Answers by status");
    for (const { labels, count } of this.#answers.values()) {
      text.sample("http_request_status_code_total", labels, count);
    }
    text.family("http_request_duration_us", "histogram", "Time to answer");
    for (const { labels, duration } of this.#durations.values()) {
      text.histogram("http_request_duration_us", labels, DURATION_BUCKETS_US, duration);
    }
    text.family("domain_requests_total", "counter", "Requests by the domain of their query");
    for (const [domain, count] of this.#domains) text.sample("domain_requests_total", { domain }, count);
    text.family("metacenter_node_alive", "gauge", "1 while it serves").sample("metacenter_node_alive", {}, 1);
    text.family("replication_latency_ms", "histogram", "From a change to its arrival here")
      .histogram("replication_latency_ms", {}, LATENCY_BUCKETS_MS, this.#replication);
    text.family("dns_lookup_hosts", "gauge", "Hosts behind a peers' name");
    for (const [domain, hosts] of this.#hosts) {
      for (const host of hosts) text.sample("dns_lookup_hosts", { domain, host }, 1);
    }
    return text.toString();
  }
}
