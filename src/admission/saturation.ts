// SPDX-License-Identifier: Apache-2.0
// How full a cluster is, from what is known of it: 1 is where requests that may wait are no longer let in.
//
//   engine_i   = max(waiting_i / waiting, kv_i / kv)           where the engine's metrics are fresh
//              = in flight_i / in_flight                       by the gateway's own count where they are not
//   saturation = max(mean of engine_i, backlog / backlog_ms, in flight_i / learned limit_i of the least full)
//
// Missing metrics never read as idle, and never stop traffic: then the gateway's own count stands in for them.

import type { AttachedKernel } from "../../wasm/kernel.ts";
import type { Config } from "../config/schema.ts";
import type { EndpointTable } from "../tables/endpoint_table.ts";

export interface SaturationEndpoint {
  readonly row: number;
  /** How old its metrics are; undefined for none. */
  readonly metricsAgeMs: number | undefined;
}

export class Saturation {
  readonly #floats: Float32Array;

  /** @param config May be changed: it holds from the next look on. */
  constructor(readonly kernel: AttachedKernel, readonly table: EndpointTable, public config: Config["saturation"]) {
    this.#floats = new Float32Array(kernel.buffer);
  }

  /** Looks at a cluster's serving endpoints and publishes how full it is. Control plane only. */
  update(cluster: number, endpoints: readonly SaturationEndpoint[]): number {
    const serving = endpoints.filter(({ row }) => this.table.serving(row));
    const engines = serving.map((endpoint) => this.#engine(endpoint));
    const limits = serving.map(({ row }) =>
      this.table.requests(row) / (this.table.limits.of(row, "latency") ?? Infinity)
    );
    const mean = engines.length === 0 ? 0 : engines.reduce((sum, load) => sum + load, 0) / engines.length;
    const full = limits.length === 0 ? 0 : Math.min(...limits);
    const backlog = this.kernel.exports.clusterBacklogMs(cluster) / this.config.backlog_ms;
    const saturation = Math.max(mean, full, backlog);
    this.#floats[this.#cell(cluster)] = saturation;
    return saturation;
  }

  /** As it was published last. */
  of(cluster: number): number {
    return this.#floats[this.#cell(cluster)];
  }

  #engine({ row, metricsAgeMs }: SaturationEndpoint): number {
    const { waiting, kvUsage } = this.table.gauges(row);
    const own = this.table.requests(row) / this.config.in_flight;
    if (metricsAgeMs === undefined || metricsAgeMs > this.config.stale_ms) return own;
    const queue = Number.isNaN(waiting) ? own : waiting / this.config.waiting;
    return Math.max(queue, Number.isNaN(kvUsage) ? 0 : kvUsage / this.config.kv_usage);
  }

  #cell(cluster: number): number {
    const k = this.kernel.exports;
    return (k.clusterOffset(cluster) + k.CLUSTER_SATURATION) >>> 2;
  }
}
