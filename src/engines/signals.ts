// SPDX-License-Identifier: Apache-2.0
// How engines tell their load: signals out of Prometheus text. Under which names, each engine's own file says. A page of
// vLLM has some 700 lines, of which a dozen matter: those are searched for, the others are never made strings of.

import { z } from "zod";

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
  /** Tokens generated since it started: as long as they grow, it computes. */
  generatedTokens?: number;
  /** When its process started, in seconds since 1970. */
  startTime?: number;
  /** LoRA adapters that requests run or wait on, and how many it can hold. */
  adapters?: { names: string[]; max: number };
  /** Its weights are not in place: it answers nothing until somebody wakes it. */
  asleep?: boolean;
  /** Prompt tokens that it looked up in its prefix cache, and found there, since it started. */
  prefixTokens?: { queried: number; hit: number };
}

const count = z.number().min(0).optional();
const toldSchema: z.ZodType<EngineSignals> = z.object({
  waiting: count,
  running: count,
  kvUsage: count,
  kvCapacityTokens: count,
  promptTokens: count,
  generatedTokens: count,
  startTime: count,
  adapters: z.object({ names: z.array(z.string().max(512)).max(4_096), max: z.number().min(0) }).optional(),
  asleep: z.boolean().optional(),
  prefixTokens: z.object({ queried: z.number().min(0), hit: z.number().min(0) }).optional(),
});

/** What another gateway read; undefined where it is none of that. */
export function readTold(signals: unknown): EngineSignals | undefined {
  return toldSchema.safeParse(signals).data;
}

/** A metric, or one series of it. */
export type Selector = string | { metric: string; label: string; value: string };

/** The names of one kind of engine. */
export interface SignalNames {
  waiting: Selector;
  running: Selector;
  kvUsage: Selector;
  promptTokens?: string;
  generatedTokens?: string;
  /** A metric whose labels give the tokens, or block size and number of blocks. */
  cacheInfo?: { metric: string; tokens?: string; blockSize: string; blocks: string };
  /** Metrics whose values do: the first that the engine has. */
  cacheValues?: { tokens?: Selector; blockSize?: Selector; blocks?: Selector };
  adapters?: string;
  /** 0 while it sleeps. */
  awake?: Selector;
  prefix?: { queried: string; hit: string };
}

/** One series of a metric. */
export function series(metric: string, label: string, value: string): Selector {
  return { metric, label, value };
}

interface Sample {
  labels: string;
  value: number;
}

/**
 * Reads an engine's signals: of one of its data-parallel ranks where that is named. Else counts of several are added up,
 * usage is that of the fullest.
 */
export function readSignals(names: SignalNames, text: string, rank?: number): EngineSignals {
  const page = new Page(text, rank);
  const usage = page.select(names.kvUsage).map(({ value }) => value);
  const awake = page.select(names.awake);
  const queried = names.prefix && page.sum(names.prefix.queried);
  const signals: EngineSignals = {
    waiting: page.sum(names.waiting),
    running: page.sum(names.running),
    kvUsage: usage.length === 0 ? undefined : Math.max(...usage),
    promptTokens: page.sum(names.promptTokens),
    generatedTokens: page.sum(names.generatedTokens),
    kvCapacityTokens: capacity(names, page),
    startTime: page.select(START_TIME)[0]?.value,
    adapters: adaptersOf(page.select(names.adapters)),
    asleep: awake.length === 0 ? undefined : awake.every(({ value }) => value === 0),
    prefixTokens: queried === undefined ? undefined : { queried, hit: page.sum(names.prefix!.hit) ?? 0 },
  };
  for (const key of Object.keys(signals) as (keyof EngineSignals)[]) {
    if (signals[key] === undefined) delete signals[key];
  }
  return signals;
}

/** As the client libraries of Prometheus name it. */
const START_TIME = "process_start_time_seconds";
const LINE_FEED = "\n";

class Page {
  readonly #samples = new Map<string, Sample[]>();

  constructor(readonly text: string, readonly rank: number | undefined) {}

  /** Samples of a metric, or of one series of it. */
  select(selector: Selector | undefined): Sample[] {
    if (selector === undefined) return [];
    if (typeof selector === "string") return this.#samplesOf(selector);
    const { metric, label, value } = selector;
    return this.#samplesOf(metric).filter(({ labels }) => labelOf(labels, label) === value);
  }

  /** Their sum; undefined for none. */
  sum(selector: Selector | undefined): number | undefined {
    const all = this.select(selector);
    return all.length === 0 ? undefined : all.reduce((total, { value }) => total + value, 0);
  }

  #samplesOf(metric: string): Sample[] {
    let samples = this.#samples.get(metric);
    if (!samples) this.#samples.set(metric, samples = this.#find(metric));
    return samples;
  }

  // Lines that begin with the name, and go on with labels or the value.
  #find(metric: string): Sample[] {
    const { text } = this;
    const samples: Sample[] = [];
    for (let at = text.indexOf(metric); at >= 0; at = text.indexOf(metric, at + metric.length)) {
      if (at > 0 && text[at - 1] !== LINE_FEED) continue;
      const end = at + metric.length;
      const next = text[end];
      if (next !== "{" && next !== " " && next !== "\t") continue;
      const lineEnd = text.indexOf(LINE_FEED, end);
      const line = text.slice(end, lineEnd < 0 ? text.length : lineEnd);
      const close = next === "{" ? line.lastIndexOf("}") : -1;
      const value = Number(line.slice(close + 1).trim().split(/\s+/)[0]);
      if (!Number.isNaN(value)) samples.push({ labels: line.slice(0, close + 1), value });
    }
    if (this.rank === undefined) return samples;
    // What has no rank is of all of them.
    return samples.filter(({ labels }) => {
      const its = labelOf(labels, "engine") ?? labelOf(labels, "dp_rank");
      return its === undefined || its === String(this.rank);
    });
  }
}

function labelOf(labels: string, name: string): string | undefined {
  return new RegExp(`[{,]\\s*${name}="((?:[^"\\\\]|\\\\.)*)"`).exec(labels)?.[1];
}

function capacity({ cacheInfo, cacheValues }: SignalNames, page: Page): number | undefined {
  let tokens = NaN;
  if (cacheInfo) {
    const labels = page.select(cacheInfo.metric)[0]?.labels ?? "";
    const figure = (name: string | undefined) => Number((name && labelOf(labels, name)) || NaN);
    tokens = figure(cacheInfo.tokens) || figure(cacheInfo.blockSize) * figure(cacheInfo.blocks);
  }
  if (!(tokens > 0) && cacheValues) {
    const figure = (selector: Selector | undefined) => page.select(selector)[0]?.value ?? NaN;
    tokens = figure(cacheValues.tokens) || figure(cacheValues.blockSize) * figure(cacheValues.blocks);
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
