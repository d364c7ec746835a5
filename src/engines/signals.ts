// SPDX-License-Identifier: Apache-2.0
// How engines tell their load: signals out of Prometheus text. Under which names, each engine's own file says.

/** What an engine reported; undefined where it said nothing. */
export interface EngineSignals {
  /** Requests in its queue. */
  waiting?: number;
  /** Requests in its batch. */
  running?: number;
  /** Share of its KV cache in use, 0 to 1. */
  kvUsage?: number;
  /** Tokens that its KV cache holds. */
  kvCapacityTokens?: number;
  /** Prompt tokens since it started: a smaller figure than before means that it restarted. */
  promptTokens?: number;
  /** When its process started, in seconds since 1970. */
  startTime?: number;
  /** LoRA adapters that requests run or wait on, and how many it can hold. */
  adapters?: { names: string[]; max: number };
}

/** A metric, or one series of it. */
export type Selector = string | { metric: string; label: string; value: string };

/** The names of one kind of engine. */
export interface SignalNames {
  waiting: Selector;
  running: Selector;
  kvUsage: Selector;
  promptTokens?: string;
  /** A metric whose labels give block size and number of blocks. */
  cacheInfo?: { metric: string; blockSize: string; blocks: string };
  /** Metrics whose values do. */
  cacheValues?: { blockSize: Selector; blocks: Selector };
  adapters?: string;
}

/** One series of a metric. */
export function series(metric: string, label: string, value: string): Selector {
  return { metric, label, value };
}

interface Sample {
  labels: string;
  value: number;
}

/** Reads an engine's signals. Counts of several ranks are added up, usage is that of the fullest. */
export function readSignals(names: SignalNames, text: string): EngineSignals {
  const { waiting, running, kvUsage, promptTokens, cacheInfo, cacheValues, adapters } = names;
  const selectors = [waiting, running, kvUsage, promptTokens, cacheInfo?.metric, adapters, START_TIME];
  const wanted = new Set([...selectors, cacheValues?.blockSize, cacheValues?.blocks].map(metricOf));
  const samples = new Map<string, Sample[]>();
  for (const line of text.split("\n")) {
    const end = line.search(/[{\s]/);
    const name = line.slice(0, end);
    if (end <= 0 || !wanted.has(name)) continue;
    const close = line[end] === "{" ? line.lastIndexOf("}") : end;
    const value = Number(line.slice(close + 1).trim().split(/\s+/)[0]);
    if (Number.isNaN(value)) continue;
    const known = samples.get(name) ?? [];
    samples.set(name, known);
    known.push({ labels: line.slice(end, close + 1), value });
  }
  const select = (selector: Selector | undefined): Sample[] => {
    const all = samples.get(metricOf(selector) ?? "") ?? [];
    if (typeof selector !== "object") return all;
    return all.filter(({ labels }) => labelOf(labels, selector.label) === selector.value);
  };
  const sum = (selector: Selector | undefined) => {
    const all = select(selector);
    return all.length === 0 ? undefined : all.reduce((total, { value }) => total + value, 0);
  };
  const usage = select(kvUsage).map(({ value }) => value);
  return {
    waiting: sum(waiting),
    running: sum(running),
    kvUsage: usage.length === 0 ? undefined : Math.max(...usage),
    promptTokens: sum(promptTokens),
    kvCapacityTokens: capacity(names, select),
    startTime: select(START_TIME)[0]?.value,
    adapters: adaptersOf(select(adapters)),
  };
}

/** As the client libraries of Prometheus name it. */
const START_TIME = "process_start_time_seconds";

function metricOf(selector: Selector | undefined): string | undefined {
  return typeof selector === "object" ? selector.metric : selector;
}

function labelOf(labels: string, name: string): string | undefined {
  return new RegExp(`[{,]\\s*${name}="((?:[^"\\\\]|\\\\.)*)"`).exec(labels)?.[1];
}

function capacity(names: SignalNames, select: (selector: Selector | undefined) => Sample[]): number | undefined {
  let tokens = NaN;
  if (names.cacheInfo) {
    const { metric, blockSize, blocks } = names.cacheInfo;
    const labels = select(metric)[0]?.labels ?? "";
    tokens = Number(labelOf(labels, blockSize) ?? NaN) * Number(labelOf(labels, blocks) ?? NaN);
  } else if (names.cacheValues) {
    const { blockSize, blocks } = names.cacheValues;
    tokens = (select(blockSize)[0]?.value ?? NaN) * (select(blocks)[0]?.value ?? NaN);
  }
  return tokens > 0 ? tokens : undefined;
}

// One series for each set of adapters that there was; its value is when that was.
function adaptersOf(samples: Sample[]): EngineSignals["adapters"] {
  if (samples.length === 0) return undefined;
  const { labels } = samples.reduce((latest, sample) => sample.value >= latest.value ? sample : latest);
  const list = (name: string) => (labelOf(labels, name) ?? "").split(",").map((one) => one.trim()).filter(Boolean);
  return {
    names: [...new Set([...list("running_lora_adapters"), ...list("waiting_lora_adapters")])],
    max: Number(labelOf(labels, "max_lora") ?? 0) || 0,
  };
}
