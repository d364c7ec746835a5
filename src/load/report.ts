// SPDX-License-Identifier: Apache-2.0
// What many requests came to, as a value and as a table.

import type { Measured } from "./client.ts";

/** Milliseconds; null for no value. */
export interface Spread {
  readonly mean: number;
  readonly p50: number;
  readonly p90: number;
  readonly p99: number;
  readonly max: number;
}

export interface LoadReport {
  readonly requests: number;
  readonly answered: number;
  /** Failed requests by reason. */
  readonly failures: Readonly<Record<string, number>>;
  readonly seconds: number;
  readonly requests_per_s: number;
  readonly output_tokens_per_s: number;
  readonly prompt_tokens: number | null;
  /** Share of the prompt tokens that came from a cache; null where the server does not tell. */
  readonly cached: number | null;
  readonly ttft_ms: Spread | null;
  readonly tpot_ms: Spread | null;
  readonly total_ms: Spread | null;
}

export function reportOf(measured: readonly Measured[], seconds: number): LoadReport {
  const answered = measured.filter(({ failure }) => failure === undefined);
  const failures: Record<string, number> = {};
  for (const { failure } of measured) if (failure !== undefined) failures[failure] = (failures[failure] ?? 0) + 1;
  const sum = (value: (one: Measured) => number) => answered.reduce((total, one) => total + value(one), 0);
  const prompt = sum(({ promptTokens }) => promptTokens);
  const cached = sum(({ cachedTokens }) => cachedTokens);
  return {
    requests: measured.length,
    answered: answered.length,
    failures,
    seconds,
    requests_per_s: answered.length / seconds,
    output_tokens_per_s: sum(({ outputTokens }) => outputTokens) / seconds,
    prompt_tokens: Number.isNaN(prompt) ? null : prompt,
    cached: Number.isNaN(cached) || prompt === 0 ? null : cached / prompt,
    ttft_ms: spreadOf(answered.map(({ ttftMs }) => ttftMs)),
    tpot_ms: spreadOf(
      answered.map(({ ttftMs, totalMs, outputTokens }) =>
        outputTokens < 2 ? NaN : (totalMs - ttftMs) / (outputTokens - 1)
      ),
    ),
    total_ms: spreadOf(answered.map(({ totalMs }) => totalMs)),
  };
}

function spreadOf(all: readonly number[]): Spread | null {
  const values = all.filter((value) => !Number.isNaN(value)).sort((a, b) => a - b);
  if (values.length === 0) return null;
  const at = (share: number) => values[Math.min(values.length - 1, Math.ceil(share * values.length) - 1)];
  return {
    mean: values.reduce((sum, value) => sum + value, 0) / values.length,
    p50: at(0.5),
    p90: at(0.9),
    p99: at(0.99),
    max: values.at(-1)!,
  };
}

/** The report for people. */
export function tableOf(report: LoadReport): string {
  const { requests, answered, failures, seconds, requests_per_s, output_tokens_per_s, cached } = report;
  const number = (value: number, digits = 1) => value.toFixed(digits);
  const lines = [
    `${answered} of ${requests} requests answered in ${number(seconds)} s: ${number(requests_per_s, 2)} requests/s, ` +
    `${number(output_tokens_per_s)} output tokens/s`,
  ];
  for (const [reason, count] of Object.entries(failures)) lines.push(`failed: ${count} x ${reason}`);
  if (cached !== null) lines.push(`prompt tokens from a cache: ${number(cached * 100)} %`);
  lines.push("", "ms".padEnd(24) + ["mean", "p50", "p90", "p99", "max"].map((name) => name.padStart(10)).join(""));
  const rows: [string, Spread | null][] = [
    ["time to first token", report.ttft_ms],
    ["time per output token", report.tpot_ms],
    ["whole answer", report.total_ms],
  ];
  for (const [name, spread] of rows) {
    if (spread === null) continue;
    const { mean, p50, p90, p99, max } = spread;
    lines.push(name.padEnd(24) + [mean, p50, p90, p99, max].map((value) => number(value).padStart(10)).join(""));
  }
  return lines.join("\n");
}
