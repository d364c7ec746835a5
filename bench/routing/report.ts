// SPDX-License-Identifier: Apache-2.0
// What came of a simulated run, as figures, a table and a plot.

import type { Job, Simulator } from "./simulator.ts";

export interface Distribution {
  mean: number;
  p50: number;
  p90: number;
  p99: number;
  max: number;
}

/** One policy at one load. */
export interface Point {
  trace: string;
  disturbance: string;
  engines: number;
  /** Its hardware as it was asked for. */
  fleet: string;
  /** Share of the saturating rate. */
  load: number;
  policy: string;
  ttft_ms: Distribution;
  tpot_ms: Distribution;
  e2e_ms: Distribution;
  /** Longest time from the arrival to being sent. */
  longest_wait_ms: number;
  requests_per_second: number;
  prefix_hit_ratio: number;
  ideal_hit_ratio: number;
  /** Most prompt tokens of one engine beside the mean. */
  imbalance: number;
  /** Requests that the gateway refused: the other figures are of the rest, but for goodput. */
  refused: number;
  /** Share of the requests within 2 s to the first token and 50 ms a token. */
  goodput: number;
  /** Mean TTFT of the runs from different seeds whose mean this is, ms. */
  seed_means_ms: number[];
}

export const GOOD_TTFT_MS = 2_000;
export const GOOD_TPOT_MS = 50;

function distribution(values: number[]): Distribution {
  const sorted = Float64Array.from(values).sort();
  const at = (share: number) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))];
  const mean = sorted.reduce((sum, value) => sum + value, 0) / sorted.length;
  return { mean, p50: at(0.5), p90: at(0.9), p99: at(0.99), max: sorted.at(-1)! };
}

/** The figures of a run. */
export function measure(
  all: readonly Job[],
  { sentTokens, now }: Simulator,
  about: Pick<Point, "trace" | "disturbance" | "engines" | "fleet" | "load" | "policy" | "ideal_hit_ratio">,
): Point {
  const jobs = all.filter(({ refused }) => !refused);
  const ttft = jobs.map(({ firstTokenAt, at }) => firstTokenAt - at);
  const tpot = jobs.map(({ firstTokenAt, endAt, outputTokens }) =>
    (endAt - firstTokenAt) / Math.max(1, outputTokens - 1)
  );
  const prompt = jobs.reduce((sum, { inputTokens }) => sum + inputTokens, 0);
  const cached = jobs.reduce((sum, { cachedTokens }) => sum + cachedTokens, 0);
  return {
    ...about,
    ttft_ms: distribution(ttft),
    tpot_ms: distribution(tpot),
    e2e_ms: distribution(jobs.map(({ endAt, at }) => endAt - at)),
    longest_wait_ms: jobs.reduce((max, { sentAt, at }) => Math.max(max, sentAt - at), 0),
    requests_per_second: jobs.length / (now / 1_000),
    prefix_hit_ratio: cached / prompt,
    imbalance: Math.max(...sentTokens) * sentTokens.length / prompt,
    goodput: jobs.filter((_, i) => ttft[i] <= GOOD_TTFT_MS && tpot[i] <= GOOD_TPOT_MS).length / all.length,
    refused: all.length - jobs.length,
    seed_means_ms: [ttft.reduce((sum, ms) => sum + ms, 0) / jobs.length],
  };
}

/** The mean of the same point's runs from several seeds. */
export function merge(runs: readonly Point[]): Point {
  const mean = (of: (point: Point) => number) => runs.reduce((sum, point) => sum + of(point), 0) / runs.length;
  const merged: Point = { ...runs[0], seed_means_ms: runs.map(({ ttft_ms }) => ttft_ms.mean) };
  for (const key of ["ttft_ms", "tpot_ms", "e2e_ms"] as const) {
    merged[key] = { ...runs[0][key] };
    for (const part of Object.keys(merged[key]) as (keyof Distribution)[]) {
      merged[key][part] = mean((point) => point[key][part]);
    }
  }
  for (
    const key of [
      "longest_wait_ms",
      "requests_per_second",
      "prefix_hit_ratio",
      "imbalance",
      "refused",
      "goodput",
    ] as const
  ) merged[key] = mean((point) => point[key]);
  return merged;
}

const seconds = (ms: number) => ms < 1_000_000 ? (ms / 1_000).toFixed(2) : (ms / 1_000).toFixed(0);

/** A table in Markdown. */
export function rows(heads: readonly string[], cells: readonly (readonly string[])[]): string {
  return [heads, heads.map(() => "---"), ...cells].map((row) => `| ${row.join(" | ")} |`).join("\n");
}

/** A table of points, one row each. */
export function table(points: readonly Point[]): string {
  const heads =
    "trace,disturbance,engines,load,policy,TTFT mean s,p50,p90,p99,max,TPOT mean ms,p99,whole answer s,hits," +
    "ideal,imbalance,longest wait s,goodput";
  const cells = points.map((point) => {
    const { ttft_ms: ttft, tpot_ms: tpot } = point;
    return [
      point.trace,
      point.disturbance,
      point.fleet,
      `${Math.round(point.load * 100)} %`,
      point.policy,
      ...[ttft.mean, ttft.p50, ttft.p90, ttft.p99, ttft.max].map(seconds),
      ...[tpot.mean, tpot.p99].map((ms) => ms.toFixed(1)),
      seconds(point.e2e_ms.mean),
      point.prefix_hit_ratio.toFixed(3),
      point.ideal_hit_ratio.toFixed(3),
      point.imbalance.toFixed(2),
      seconds(point.longest_wait_ms),
      point.goodput.toFixed(3),
    ];
  });
  return rows(heads.split(","), cells);
}

/** A ratio in bold; a tie where some seed says the opposite. */
function ratio(mine: Point, best: Point): string {
  const better = mine.seed_means_ms.map((ms, i) => ms < best.seed_means_ms[i]);
  const tie = new Set(better).size > 1 ? " (tie)" : "";
  return `**${(mine.ttft_ms.mean / best.ttft_ms.mean).toFixed(2)}**${tie}`;
}

/**
 * One policy beside others at each point: its mean TTFT beside that of the rule with the least, which is the best one; its
 * p99, TPOT and whole answers beside that rule's; its goodput beside the most of any; and the bounds' means.
 */
export function versus(points: readonly Point[], policy: string, others: readonly string[], bounds: Bounds): string {
  const heads = "trace,disturbance,engines,load,TTFT mean s,best rule,its mean,ratio,p99 s,its p99,TPOT p99 ms,its," +
    "whole answer s,its,hits,its,goodput,the rules' best,bounds s";
  const cells: string[][] = [];
  for (const mine of points.filter((point) => point.policy === policy)) {
    const same = points.filter((point) =>
      others.includes(point.policy) && point.trace === mine.trace && point.load === mine.load &&
      point.fleet === mine.fleet && point.disturbance === mine.disturbance
    );
    if (same.length === 0) continue;
    const best = same.reduce((a, b) => b.ttft_ms.mean < a.ttft_ms.mean ? b : a);
    const both = (of: (point: Point) => string) => [of(mine), of(best)];
    cells.push([
      mine.trace,
      mine.disturbance,
      mine.fleet,
      `${Math.round(mine.load * 100)} %`,
      seconds(mine.ttft_ms.mean),
      best.policy,
      seconds(best.ttft_ms.mean),
      ratio(mine, best),
      ...both(({ ttft_ms }) => seconds(ttft_ms.p99)),
      ...both(({ tpot_ms }) => tpot_ms.p99.toFixed(0)),
      ...both(({ e2e_ms }) => seconds(e2e_ms.mean)),
      ...both(({ prefix_hit_ratio }) => prefix_hit_ratio.toFixed(3)),
      mine.goodput.toFixed(3),
      Math.max(...same.map(({ goodput }) => goodput)).toFixed(3),
      bounds(mine).map(seconds).join(", "),
    ]);
  }
  return rows(heads.split(","), cells);
}

/** Mean TTFT, ms, that a point's fleet cannot go below by much. */
export type Bounds = (point: Point) => readonly number[];

/** Mean TTFT against load, one line a policy, as SVG. The vertical axis is logarithmic. */
export function plot(points: readonly Point[], title: string): string {
  const [width, height, left, bottom] = [720, 440, 70, 50];
  const policies = [...new Set(points.map(({ policy }) => policy))];
  const loads = points.map(({ load }) => load);
  const means = points.map(({ ttft_ms }) => Math.max(1, ttft_ms.mean));
  const [low, high] = [Math.min(...loads), Math.max(...loads)];
  const [bottomLog, topLog] = [Math.floor(Math.log10(Math.min(...means))), Math.ceil(Math.log10(Math.max(...means)))];
  const x = (load: number) => left + (width - left - 170) * (high === low ? 0.5 : (load - low) / (high - low));
  const y = (ms: number) =>
    height - bottom -
    (height - bottom - 40) * (Math.log10(Math.max(1, ms)) - bottomLog) / Math.max(1, topLog - bottomLog);
  const parts = [`<text x="${left}" y="24" font-size="15">${title}: mean TTFT against load</text>`];
  for (let power = bottomLog; power <= topLog; power++) {
    const at = y(10 ** power);
    parts.push(`<line x1="${left}" x2="${width - 170}" y1="${at}" y2="${at}" stroke="#ddd"/>`);
    parts.push(`<text x="${left - 8}" y="${at + 4}" text-anchor="end">${10 ** power / 1_000} s</text>`);
  }
  for (const load of new Set(loads)) {
    parts.push(
      `<text x="${x(load)}" y="${height - bottom + 18}" text-anchor="middle">${Math.round(load * 100)} %</text>`,
    );
  }
  policies.forEach((policy, i) => {
    const own = points.filter((point) => point.policy === policy).sort((a, b) => a.load - b.load);
    const color = `hsl(${Math.round(360 * i / policies.length)} 65% 42%)`;
    const line = own.map(({ load, ttft_ms }) => `${x(load).toFixed(1)},${y(ttft_ms.mean).toFixed(1)}`).join(" ");
    parts.push(`<polyline points="${line}" fill="none" stroke="${color}" stroke-width="2"/>`);
    for (const { load, ttft_ms } of own) {
      parts.push(`<circle cx="${x(load)}" cy="${y(ttft_ms.mean)}" r="3" fill="${color}"/>`);
    }
    parts.push(`<text x="${width - 160}" y="${50 + 18 * i}" fill="${color}">${policy}</text>`);
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" font-family="sans-serif" font-size="12">\n<rect width="100%" height="100%" fill="white"/>\n${
    parts.join("\n")
  }\n</svg>\n`;
}
