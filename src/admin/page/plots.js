// SPDX-License-Identifier: Apache-2.0
// The plots of the last minutes, and beside each its newest figures in words.

/* global uPlot */

const KEPT = 300;
const HEIGHT = 180;
/** What a plot shows at least, in seconds. */
const SPAN_S = 300;

/** Samples by their fields, the oldest first; each field's values are one array. */
class Columns {
  constructor(fields) {
    this.fields = ["time", ...fields];
    this.columns = this.fields.map(() => []);
  }
  add(sample) {
    this.fields.forEach((field, i) => {
      this.columns[i].push(sample[field]);
      if (this.columns[i].length > KEPT) this.columns[i].shift();
    });
  }
  clear() {
    for (const column of this.columns) column.length = 0;
  }
}

const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** CSS colors such as light-dark(…) as a canvas understands them. */
function resolved(name) {
  const probe = document.createElement("span");
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const value = getComputedStyle(probe).color;
  probe.remove();
  return value || color(name);
}

class Plot {
  /** @param series Field, label, color variable, and dash pattern of each. */
  constructor(id, series, format) {
    this.place = document.getElementById(`${id}-plot`);
    this.series = series;
    this.format = format;
    this.data = new Columns(series.map(({ field }) => field));
    this.draw();
    new ResizeObserver(() => this.plot.setSize(this.size())).observe(this.place);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  size() {
    return { width: Math.max(200, this.place.clientWidth), height: HEIGHT };
  }

  draw() {
    this.plot?.destroy();
    const [text, line] = [resolved("--quiet"), resolved("--line")];
    const axis = { stroke: text, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 } };
    this.plot = new uPlot(
      {
        ...this.size(),
        cursor: { y: false },
        scales: {
          x: { range: (_, min, max) => max === null ? [0, SPAN_S] : [Math.min(min, max - SPAN_S), max] },
          y: { range: (_, __, max) => [0, max > 0 ? max * 1.1 : 1] },
        },
        axes: [{ ...axis, space: 70 }, { ...axis, size: 60, values: (_, values) => values.map(this.format) }],
        series: [
          {},
          ...this.series.map(({ label, variable, dash }) => ({
            label,
            stroke: resolved(variable),
            width: 2,
            dash,
            spanGaps: true,
            value: (_, value) => value === null ? "–" : this.format(value),
          })),
        ],
      },
      this.data.columns,
      this.place,
    );
  }

  take({ whole, samples }) {
    if (whole) this.data.clear();
    for (const sample of samples) this.data.add(sample);
    this.plot.setData(this.data.columns);
  }
}

export const rate = (value) => value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2);
export const seconds = (value) => value >= 1 ? `${value.toFixed(2)} s` : `${(value * 1_000).toFixed(0)} ms`;

export class Plots {
  constructor() {
    this.plots = [
      new Plot("requests", [
        { field: "requests", label: "ended", variable: "--accent" },
        { field: "errors", label: "refused or failed", variable: "--bad", dash: [6, 4] },
      ], rate),
      new Plot("ttft", [
        { field: "ttft50", label: "half are faster", variable: "--accent" },
        { field: "ttft95", label: "95 % are faster", variable: "--warn", dash: [6, 4] },
      ], seconds),
      new Plot("tokens", [{ field: "tokens", label: "generated", variable: "--accent" }], rate),
    ];
  }

  /** New samples, or the whole history. */
  take(told) {
    for (const plot of this.plots) plot.take(told);
    const { samples } = told;
    if (samples.length === 0) return;
    const last = samples.at(-1);
    const say = (id, text) => document.getElementById(`${id}-now`).textContent = text;
    say("requests", `${rate(last.requests)} now, ${rate(last.errors)} of them refused or failed`);
    say("ttft", last.ttft50 === null ? "none now" : `${seconds(last.ttft50)} now, 95 % within ${seconds(last.ttft95)}`);
    const cached = last.cached === null ? "" : `, ${(last.cached * 100).toFixed(0)} % of the prompts from a cache`;
    say("tokens", `${rate(last.tokens)} now${cached}`);
  }
}
