// SPDX-License-Identifier: Apache-2.0
// The metadata center's own metrics, under the names of the Go center.

import { PrometheusText } from "../telemetry/prometheus.ts";
import { type Center, engineKey } from "./center.ts";

const MICROSECOND_BUCKETS = Array.from({ length: 12 }, (_, i) => 100 * 2 ** i);
const LATENCY_BUCKETS_MS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000];
/** Paths that have metrics of their own; a stranger's path must not make a new series. */
const KNOWN_PATHS = new Set(["/", "/metrics", "/log/level"]);

class Histogram {
  readonly counts: number[];
  sum = 0;
  constructor(readonly bounds: number[]) {
    this.counts = new Array(bounds.length + 1).fill(0);
  }
  observe(value: number): void {
    let bucket = 0;
    while (bucket < this.bounds.length && value > this.bounds[bucket]) bucket++;
    this.counts[bucket]++;
    this.sum += value;
  }
}

export class CenterMetrics {
  readonly #statuses = new Map<string, { labels: Record<string, string>; count: number; duration: Histogram }>();
  readonly #replication = new Histogram(LATENCY_BUCKETS_MS);
  readonly #hosts = new Map<string, string[]>();

  constructor(readonly version: string) {}

  answered(method: string, path: string, status: number, ms: number): void {
    const known = path.startsWith("/v1/") && status !== 404 || KNOWN_PATHS.has(path) ? path : "other";
    const key = `${method} ${known} ${status}`;
    let entry = this.#statuses.get(key);
    if (!entry) {
      entry = {
        labels: { method, path: known, status: String(status) },
        count: 0,
        duration: new Histogram(MICROSECOND_BUCKETS),
      };
      this.#statuses.set(key, entry);
    }
    entry.count++;
    entry.duration.observe(ms * 1_000);
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
    for (const { labels, count } of this.#statuses.values()) {
      text.sample("http_request_status_code_total", labels, count);
    }
    text.family("http_request_duration_us", "histogram", "Time to answer");
    for (const { labels, duration } of this.#statuses.values()) {
      text.histogram("http_request_duration_us", labels, MICROSECOND_BUCKETS, duration);
    }
    text.family("replication_latency_ms", "histogram", "From a change to its arrival here")
      .histogram("replication_latency_ms", {}, LATENCY_BUCKETS_MS, this.#replication);
    text.family("dns_lookup_hosts", "gauge", "Hosts behind a peers' name");
    for (const [domain, hosts] of this.#hosts) {
      for (const host of hosts) text.sample("dns_lookup_hosts", { domain, host }, 1);
    }
    return text.toString();
  }
}
