// SPDX-License-Identifier: Apache-2.0
// What the workers counted, read by whoever wants to know: the areas of all workers, or their sum.

import { type CellLayout, DURATION_BUCKETS, HISTOGRAM_CELLS, histogramAt, MODEL_CELLS, TENANT_CELLS } from "./cells.ts";
import type { HistogramValues } from "./prometheus.ts";

/** Reads models of these areas of cells. */
export class ModelReadings {
  constructor(readonly workers: readonly Float64Array[], readonly layout: CellLayout) {}

  #sum(cell: number): number {
    let total = 0;
    for (const cells of this.workers) total += cells[cell];
    return total;
  }

  /** Mean completion tokens of a model's answers; 0 while no answer has told. */
  meanCompletion(model: number): number {
    const base = this.layout.model(model);
    const answers = this.#sum(base + MODEL_CELLS.usageAnswers);
    return answers === 0 ? 0 : this.#sum(base + MODEL_CELLS.toldTokens) / answers;
  }

  /** Answers of all models that told their usage, and the cached tokens in it. */
  cachedTokens(): { answers: number; cached: number } {
    let [answers, cached] = [0, 0];
    for (let model = 0; model < this.layout.limits.models; model++) {
      const base = this.layout.model(model);
      cached += this.#sum(base + MODEL_CELLS.cachedTokens);
      answers += this.#sum(base + MODEL_CELLS.usageAnswers);
    }
    return { answers, cached };
  }

  /**
   * Seconds within which so many percent of a model's first tokens came, to the next bound of the histogram; undefined
   * when there are too few to tell, or it is beyond all bounds.
   */
  ttftPercentile(model: number, percent: number): number | undefined {
    const base = this.layout.model(model) + MODEL_CELLS.ttftStream;
    const counts = Array.from({ length: DURATION_BUCKETS.length + 1 }, (_, bucket) => this.#sum(base + bucket));
    const all = counts.reduce((sum, count) => sum + count, 0);
    if (all * (100 - percent) < 100) return undefined;
    return percentileOf({ counts, sum: 0 }, DURATION_BUCKETS, percent);
  }

  /** Mean seconds that a model's requests took; 0 while none has ended. */
  meanDuration(model: number): number {
    const base = this.layout.model(model) + MODEL_CELLS.duration;
    let requests = 0;
    for (let bucket = 0; bucket <= DURATION_BUCKETS.length; bucket++) requests += this.#sum(base + bucket);
    return requests === 0 ? 0 : this.#sum(base + HISTOGRAM_CELLS - 1) / requests;
  }
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
