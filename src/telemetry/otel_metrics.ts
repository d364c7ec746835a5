// SPDX-License-Identifier: Apache-2.0
// The gateway's metrics for OpenTelemetry: every family is an instrument that is read when the runtime exports. Histograms
// are told by their count and sum; those of requests are recorded as such beside (tracing.ts).

import { type BatchObservableResult, metrics, type Observable } from "@opentelemetry/api";
import type { Family, HistogramValues, Labels, MetricsSink } from "./prometheus.ts";

/** Has metrics exported, as `write` tells them each time. */
export function exportMetrics(families: readonly Family[], write: (sink: MetricsSink) => void): void {
  const meter = metrics.getMeter("aigw");
  const instruments = new Map<string, Observable>();
  for (const { name, type, help } of families) {
    const options = { description: help, unit: unitOf(name) };
    // A counter is one by its kind here, not by its name.
    if (type === "counter") instruments.set(name, meter.createObservableCounter(name.replace(/_total$/, ""), options));
    else if (type === "gauge") instruments.set(name, meter.createObservableGauge(name, options));
    else {
      for (const part of ["sum", "count"]) {
        instruments.set(`${name}_${part}`, meter.createObservableCounter(`${name}.${part}`, { description: help }));
      }
    }
  }
  meter.addBatchObservableCallback((result) => write(new ResultSink(result, instruments)), [...instruments.values()]);
}

function unitOf(name: string): string | undefined {
  const bare = name.replace(/_total$/, "");
  return bare.endsWith("_seconds") ? "s" : bare.endsWith("_bytes") ? "By" : undefined;
}

class ResultSink implements MetricsSink {
  constructor(readonly result: BatchObservableResult, readonly instruments: ReadonlyMap<string, Observable>) {}

  add({ name }: Family, labels: Labels, value: number): this {
    const instrument = this.instruments.get(name);
    if (instrument) this.result.observe(instrument, value, labels);
    return this;
  }

  addHistogram(family: Family, labels: Labels, { counts, sum }: HistogramValues): this {
    let count = 0;
    for (let i = 0; i < counts.length; i++) count += counts[i];
    return this.addSummary(family, labels, count, sum);
  }

  addSummary({ name }: Family, labels: Labels, count: number, sum: number): this {
    for (const [part, value] of [["sum", sum], ["count", count]] as const) {
      const instrument = this.instruments.get(`${name}_${part}`);
      if (instrument) this.result.observe(instrument, value, labels);
    }
    return this;
  }
}
