// SPDX-License-Identifier: Apache-2.0
// Prometheus text exposition (format 0.0.4).

export type Labels = Record<string, string | number>;

export interface HistogramValues {
  /** By bucket, not cumulative, the last one above all bounds. */
  readonly counts: ArrayLike<number>;
  readonly sum: number;
}

export class PrometheusText {
  #text = "";

  /** Opens a metric family; its samples follow. */
  family(name: string, type: "counter" | "gauge" | "histogram", help: string): this {
    this.#text += `# HELP ${name} ${help}\n# TYPE ${name} ${type}\n`;
    return this;
  }

  sample(name: string, labels: Labels, value: number): this {
    this.#text += `${name}${formatLabels(labels)} ${formatValue(value)}\n`;
    return this;
  }

  /** Samples of one histogram. */
  histogram(name: string, labels: Labels, bounds: readonly number[], { counts, sum }: HistogramValues): this {
    let total = 0;
    for (let i = 0; i <= bounds.length; i++) {
      total += counts[i];
      this.sample(`${name}_bucket`, { ...labels, le: i < bounds.length ? String(bounds[i]) : "+Inf" }, total);
    }
    return this.sample(`${name}_sum`, labels, sum).sample(`${name}_count`, labels, total);
  }

  toString(): string {
    return this.#text;
  }
}

function formatLabels(labels: Labels): string {
  const pairs = Object.entries(labels).map(([name, value]) => `${name}="${escapeLabel(String(value))}"`);
  return pairs.length === 0 ? "" : `{${pairs.join(",")}}`;
}

function escapeLabel(value: string): string {
  return value.replaceAll("\\", "\\\\").replaceAll('"', '\\"').replaceAll("\n", "\\n");
}

function formatValue(value: number): string {
  return Number.isNaN(value) ? "NaN" : value === Infinity ? "+Inf" : String(value);
}
