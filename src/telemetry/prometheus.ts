// SPDX-License-Identifier: Apache-2.0
// The text that Prometheus reads: its own format (0.0.4), or OpenMetrics (1.0.0) for who asks for that.

export type Labels = Record<string, string | number>;

export interface HistogramValues {
  /** By bucket, not cumulative, the last one above all bounds. */
  readonly counts: ArrayLike<number>;
  readonly sum: number;
}

/** A metric: what its samples have in common. */
export interface Family {
  readonly name: string;
  readonly type: "counter" | "gauge" | "histogram" | "summary";
  readonly help: string;
  readonly labels: readonly string[];
  /** Bounds of a histogram, in its unit. */
  readonly bounds?: readonly number[];
}

/** Takes the samples of metrics. */
export interface MetricsSink {
  add(family: Family, labels: Labels, value: number): this;
  /** A histogram's samples; none of one that has seen nothing. */
  addHistogram(family: Family, labels: Labels, values: HistogramValues): this;
  /** Count and sum of what was seen; nothing where that is nothing. */
  addSummary(family: Family, labels: Labels, count: number, sum: number): this;
}

export type TextFormat = "prometheus" | "openmetrics";

export const CONTENT_TYPES: Readonly<Record<TextFormat, string>> = {
  prometheus: "text/plain; version=0.0.4; charset=utf-8",
  openmetrics: "application/openmetrics-text; version=1.0.0; charset=utf-8",
};

/** The format that an Accept field asks for. */
export function formatFor(accept: string | null): TextFormat {
  return accept?.includes("application/openmetrics-text") ? "openmetrics" : "prometheus";
}

const UNITS = ["seconds", "bytes", "ratio"];

/** Families with their samples, in the order in which they come; those without a sample are left out. */
export class MetricsText implements MetricsSink {
  readonly #families = new Map<Family, string[]>();

  /** @param showsEmpty Whether histograms that have seen nothing are shown too. */
  constructor(readonly format: TextFormat, readonly showsEmpty = false) {}

  add(family: Family, labels: Labels, value: number): this {
    this.#line(family, family.name, labels, value);
    return this;
  }

  addHistogram(family: Family, labels: Labels, { counts, sum }: HistogramValues): this {
    const bounds = family.bounds ?? [];
    let total = 0;
    for (let i = 0; i <= bounds.length; i++) total += counts[i];
    if (total === 0 && !this.showsEmpty) return this;
    let below = 0;
    for (let i = 0; i <= bounds.length; i++) {
      below += counts[i];
      const le = i < bounds.length ? this.#bound(bounds[i]) : "+Inf";
      this.#line(family, `${family.name}_bucket`, { ...labels, le }, below);
    }
    this.#total(family, labels, total, sum);
    return this;
  }

  addSummary(family: Family, labels: Labels, count: number, sum: number): this {
    if (count > 0) this.#total(family, labels, count, sum);
    return this;
  }

  #total(family: Family, labels: Labels, count: number, sum: number): void {
    this.#line(family, `${family.name}_sum`, labels, sum);
    this.#line(family, `${family.name}_count`, labels, count);
  }

  #line(family: Family, name: string, labels: Labels, value: number): void {
    let lines = this.#families.get(family);
    if (lines === undefined) this.#families.set(family, lines = []);
    lines.push(`${name}${formatLabels(labels)} ${formatValue(value)}`);
  }

  // OpenMetrics wants them as numbers with a point.
  #bound(bound: number): string {
    return this.format === "openmetrics" && Number.isInteger(bound) ? bound.toFixed(1) : String(bound);
  }

  toString(): string {
    const lines: string[] = [];
    for (const [{ name, type, help }, samples] of this.#families) {
      const open = this.format === "openmetrics";
      const shown = open && type === "counter" ? name.replace(/_total$/, "") : name;
      lines.push(`# TYPE ${shown} ${type}`);
      const unit = open ? UNITS.find((unit) => shown.endsWith(`_${unit}`)) : undefined;
      if (unit !== undefined) lines.push(`# UNIT ${shown} ${unit}`);
      lines.push(`# HELP ${shown} ${help.replaceAll("\\", "\\\\").replaceAll("\n", "\\n")}`, ...samples);
    }
    if (this.format === "openmetrics") lines.push("# EOF");
    return lines.length === 0 ? "" : `${lines.join("\n")}\n`;
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
