// SPDX-License-Identifier: Apache-2.0
// What the workers counted, read by whoever wants to know: the areas of all workers, or their sum.

import { type CellLayout, DURATION_BUCKETS, HISTOGRAM_CELLS, histogramAt, MODEL_CELLS, TENANT_CELLS } from "./cells.ts";
import type { Clock } from "../base/clock.ts";
import type { HistogramValues } from "./prometheus.ts";

/** A sum of a model's cells, by the cell's number within the model. */
type Sum = (cell: number) => number;

/** How long a model's past is kept: means are of the last one to two of these. */
const PERIOD_MS = 600_000;
/** Answers that are enough for a mean of that time; with less it is of all time. */
const ENOUGH = 50;

/** Sums as they were. */
interface Past {
  at: number;
  older: Float64Array;
  newer: Float64Array;
}

/** Reads models of these areas of cells: figures of lately, so that what was months ago does not hold them fast. */
export class ModelReadings {
  readonly #pasts = new Map<number, Past>();

  constructor(readonly workers: readonly Float64Array[], readonly layout: CellLayout, readonly clock: Clock) {}

  #sum(cell: number): number {
    let total = 0;
    for (const cells of this.workers) total += cells[cell];
    return total;
  }

  #pastOf(model: number): Past {
    const [base, cells] = this.layout.cellsOf("model", model);
    const now = this.clock.now();
    const past = this.#pasts.get(model);
    if (past && now - past.at < PERIOD_MS) return past;
    const sums = Float64Array.from({ length: cells }, (_, cell) => this.#sum(base + cell));
    // What was lately is not known of one that nobody asked for since.
    const older = past && now - past.at < 2 * PERIOD_MS ? past.newer : new Float64Array(cells);
    const fresh = { at: now, older, newer: sums };
    this.#pasts.set(model, fresh);
    return fresh;
  }

  // What `read` makes of lately, or of all time when it says that there is too little.
  #lately<T>(model: number, read: (sum: Sum, least: number) => T | undefined): T | undefined {
    const base = this.layout.model(model);
    const { older } = this.#pastOf(model);
    return read((cell) => this.#sum(base + cell) - older[cell], ENOUGH) ?? read((cell) => this.#sum(base + cell), 1);
  }

  /** Mean completion tokens of a model's answers; 0 while no answer has told. */
  meanCompletion(model: number): number {
    return this.#lately(model, (sum, least) => {
      const answers = sum(MODEL_CELLS.usageAnswers);
      return answers < least ? undefined : sum(MODEL_CELLS.toldTokens) / answers;
    }) ?? 0;
  }

  /**
   * Seconds within which so many percent of a model's first tokens came, to the next bound of the histogram; undefined
   * when there are too few to tell, or it is beyond all bounds.
   */
  ttftPercentile(model: number, percent: number): number | undefined {
    return this.#lately(model, (sum) => {
      const counts = Array.from({ length: DURATION_BUCKETS.length + 1 }, (_, i) => sum(MODEL_CELLS.ttftStream + i));
      const all = counts.reduce((total, count) => total + count, 0);
      if (all * (100 - percent) < 100) return undefined;
      return percentileOf({ counts, sum: 0 }, DURATION_BUCKETS, percent);
    });
  }

  /** Mean seconds that a model's requests took; 0 while none has ended. */
  meanDuration(model: number): number {
    return this.#lately(model, (sum, least) => {
      let requests = 0;
      for (let i = 0; i <= DURATION_BUCKETS.length; i++) requests += sum(MODEL_CELLS.duration + i);
      return requests < least ? undefined : sum(MODEL_CELLS.duration + HISTOGRAM_CELLS - 1) / requests;
    }) ?? 0;
  }
}

/** Answers of all models that told their usage, and the cached tokens in it. */
export function cachedTokens(
  workers: readonly Float64Array[],
  layout: CellLayout,
): { answers: number; cached: number } {
  let [answers, cached] = [0, 0];
  for (let model = 0; model < layout.limits.models; model++) {
    const base = layout.model(model);
    for (const cells of workers) {
      cached += cells[base + MODEL_CELLS.cachedTokens];
      answers += cells[base + MODEL_CELLS.usageAnswers];
    }
  }
  return { answers, cached };
}

/** The bound of the bucket that this percentile is in; undefined for no value, and above all bounds. */
export function percentileOf(
  { counts }: HistogramValues,
  bounds: readonly number[],
  percent: number,
): number | undefined {
  let all = 0;
  for (let i = 0; i < counts.length; i++) all += counts[i];
  if (all === 0) return undefined;
  let rank = all * percent / 100;
  for (const [bucket, bound] of bounds.entries()) if ((rank -= counts[bucket]) <= 0) return bound;
  return undefined;
}

/** What is known of a model. */
export interface ModelReading {
  readonly duration: HistogramValues;
  readonly ttftStream: HistogramValues;
  readonly ttftWhole: HistogramValues;
  readonly tokenTime: HistogramValues;
  readonly queue: HistogramValues;
  readonly counts: Readonly<
    Record<
      "promptTokens" | "completionTokens" | "cachedTokens" | "usageAnswers" | "promptBytes" | "presumedBytes",
      number
    >
  >;
}

/** Reads one model's metrics from summed cells. */
export function readModel(cells: Float64Array, layout: CellLayout, model: number): ModelReading {
  const base = layout.model(model);
  const count = (name: keyof ModelReading["counts"]) => cells[base + MODEL_CELLS[name]];
  return {
    duration: histogramAt(cells, base + MODEL_CELLS.duration),
    ttftStream: histogramAt(cells, base + MODEL_CELLS.ttftStream),
    ttftWhole: histogramAt(cells, base + MODEL_CELLS.ttftWhole),
    tokenTime: histogramAt(cells, base + MODEL_CELLS.tokenTime),
    queue: histogramAt(cells, base + MODEL_CELLS.queue),
    counts: {
      promptTokens: count("promptTokens"),
      completionTokens: count("completionTokens"),
      cachedTokens: count("cachedTokens"),
      usageAnswers: count("usageAnswers"),
      promptBytes: count("promptBytes"),
      presumedBytes: count("presumedBytes"),
    },
  };
}

/** Reads a tenant's metrics from summed cells. */
export function readTenant(
  cells: Float64Array,
  layout: CellLayout,
  tenant: number,
): Record<keyof typeof TENANT_CELLS, number> {
  const base = layout.tenant(tenant);
  return {
    sent: cells[base + TENANT_CELLS.sent],
    refused: cells[base + TENANT_CELLS.refused],
    promptTokens: cells[base + TENANT_CELLS.promptTokens],
    completionTokens: cells[base + TENANT_CELLS.completionTokens],
  };
}
