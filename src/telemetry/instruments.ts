// SPDX-License-Identifier: Apache-2.0
// What is counted and where: every counter and histogram has its cells in the worker's area, so recording is an
// addition to an array and reading is a sum over workers.

import { HIGH_ROW_CELL } from "../tables/metric_cells.ts";
import type { Usage } from "../openai/usage.ts";
import { type Outcome, OUTCOMES } from "./outcome.ts";

/** Upper bounds in seconds: from a gateway's own time to that of a long generation. */
export const DURATION_BUCKETS = [
  0.001,
  0.0025,
  0.005,
  0.01,
  0.025,
  0.05,
  0.1,
  0.25,
  0.5,
  1,
  2.5,
  5,
  10,
  30,
  60,
  120,
  300,
  600,
] as const;

/** A histogram's cells: a count for each bucket, one above them, and the sum. */
const HISTOGRAM_CELLS = DURATION_BUCKETS.length + 2;

/** Cells that belong to a worker as a whole. */
export const WORKER_CELLS = {
  heartbeat: 0,
  retries: 1,
  connectFailures: 2,
  pieces: 3,
  bytes: 4,
  savesDropped: 5,
  highRow: HIGH_ROW_CELL,
  logLinesDropped: 7,
  retriesRefused: 8,
  memory: 9,
  /** The oldest snapshot that a request under way was begun with. */
  snapshot: 10,
  replicaFaults: 11,
  suspicions: 12,
  /** Requests for a model that nobody knows. */
  unknownModels: 13,
  hedges: 14,
  hedgesWon: 15,
  llmLinesDropped: 16,
  /** Connections of clients to direct listeners, and those that were turned away. */
  clientConnections: 17,
  clientsRefused: 18,
} as const;
/** The histogram of the event loop's delay. */
const LOOP_CELLS = 19;
const WORKER_CELL_COUNT = LOOP_CELLS + HISTOGRAM_CELLS;

/** Prompt, completion and cached tokens, answers that told their usage. */
const TOKEN_CELLS = 4;
const MODEL_CELLS = OUTCOMES.length + 2 * HISTOGRAM_CELLS + TOKEN_CELLS;

/** Of a tenant: requests sent to an engine, requests refused, prompt and completion tokens. */
const TENANT_CELLS = 4;

/** Cells for this many models and tenants; one more model row stands for unknown names. */
export function cellCount(models: number, tenants: number): number {
  return tenantBase(models, tenants);
}

function tenantBase(models: number, tenant: number): number {
  return WORKER_CELL_COUNT + (models + 1) * MODEL_CELLS + tenant * TENANT_CELLS;
}

/** Index of the row of unknown models. */
export function unknownModel(models: number): number {
  return models;
}

function modelBase(model: number): number {
  return WORKER_CELL_COUNT + model * MODEL_CELLS;
}

/** First cell and number of the cells of a model. */
export function modelCells(model: number): [first: number, count: number] {
  return [modelBase(model), MODEL_CELLS];
}

/** First cell and number of the cells of a tenant. */
export function tenantCells(models: number, tenant: number): [first: number, count: number] {
  return [tenantBase(models, tenant), TENANT_CELLS];
}

/** Writes the metrics of one worker. */
export class Instruments {
  /** @param models Rows of models, the unknown one not counted. */
  constructor(readonly cells: Float64Array, readonly models: number) {}

  add(cell: number, value = 1): void {
    this.cells[cell] += value;
  }

  /** A request ended. */
  ended(model: number, outcome: Outcome, seconds: number): void {
    const base = modelBase(model);
    this.cells[base + OUTCOMES.indexOf(outcome)]++;
    this.#observe(base + OUTCOMES.length, seconds);
  }

  /** A request's worker died: when it came is not known. */
  lost(model: number, tenant: number, sent: boolean): void {
    this.cells[modelBase(model) + OUTCOMES.indexOf("worker_lost")]++;
    this.tenantEnded(tenant, sent, undefined);
  }

  /** A tenant's request ended. */
  tenantEnded(tenant: number, sent: boolean, usage: Usage | undefined): void {
    const base = tenantBase(this.models, tenant);
    this.cells[base + (sent ? 0 : 1)]++;
    this.cells[base + 2] += usage?.promptTokens ?? 0;
    this.cells[base + 3] += usage?.completionTokens ?? 0;
  }

  firstToken(model: number, seconds: number): void {
    this.#observe(modelBase(model) + OUTCOMES.length + HISTOGRAM_CELLS, seconds);
  }

  /** How much later than asked a timer of this worker fired. */
  loopDelay(seconds: number): void {
    this.#observe(LOOP_CELLS, seconds);
  }

  /** Tokens as an engine counted them. */
  usage(model: number, { promptTokens = 0, completionTokens = 0, cachedTokens = 0 }: Usage): void {
    const base = modelBase(model) + MODEL_CELLS - TOKEN_CELLS;
    this.cells[base] += promptTokens;
    this.cells[base + 1] += completionTokens;
    this.cells[base + 2] += cachedTokens;
    this.cells[base + 3]++;
  }

  #observe(base: number, seconds: number): void {
    let bucket = 0;
    while (bucket < DURATION_BUCKETS.length && seconds > DURATION_BUCKETS[bucket]) bucket++;
    this.cells[base + bucket]++;
    this.cells[base + HISTOGRAM_CELLS - 1] += seconds;
  }
}

/** Mean completion tokens of a model's answers in these areas of cells; 0 while no answer has told. */
export function meanCompletion(workers: readonly Float64Array[], model: number): number {
  const base = modelBase(model) + MODEL_CELLS - TOKEN_CELLS;
  const sum = (cell: number) => workers.reduce((total, cells) => total + cells[cell], 0);
  const answers = sum(base + 3);
  return answers === 0 ? 0 : sum(base + 1) / answers;
}

/** Answers of all models that told their usage, and the cached tokens in it. */
export function cachedTokens(
  workers: readonly Float64Array[],
  models: number,
): { answers: number; cached: number } {
  let [answers, cached] = [0, 0];
  for (const cells of workers) {
    for (let model = 0; model < models; model++) {
      const base = modelBase(model) + MODEL_CELLS - TOKEN_CELLS;
      cached += cells[base + 2];
      answers += cells[base + 3];
    }
  }
  return { answers, cached };
}

/**
 * Seconds within which so many percent of a model's first tokens came, to the next bound of the histogram; undefined when
 * there are too few to tell, or it is beyond all bounds.
 */
export function ttftPercentile(workers: readonly Float64Array[], model: number, percent: number): number | undefined {
  const base = modelBase(model) + OUTCOMES.length + HISTOGRAM_CELLS;
  const counts = Array.from({ length: DURATION_BUCKETS.length + 1 }, (_, bucket) => {
    return workers.reduce((sum, cells) => sum + cells[base + bucket], 0);
  });
  const all = counts.reduce((sum, count) => sum + count, 0);
  if (all * (100 - percent) < 100) return undefined;
  let rank = all * percent / 100;
  for (const [bucket, bound] of DURATION_BUCKETS.entries()) if ((rank -= counts[bucket]) <= 0) return bound;
  return undefined;
}

/** Mean seconds that a model's requests took, in these areas of cells; 0 while none has ended. */
export function meanDuration(workers: readonly Float64Array[], model: number): number {
  const base = modelBase(model) + OUTCOMES.length;
  let [requests, seconds] = [0, 0];
  for (const cells of workers) {
    for (let bucket = 0; bucket <= DURATION_BUCKETS.length; bucket++) requests += cells[base + bucket];
    seconds += cells[base + HISTOGRAM_CELLS - 1];
  }
  return requests === 0 ? 0 : seconds / requests;
}

export interface HistogramReading {
  /** Counts by bucket, the last one above all bounds. */
  counts: Float64Array;
  sum: number;
}

/** Reads the event loop's delays from summed cells. */
export function readLoopDelay(cells: Float64Array): HistogramReading {
  return {
    counts: cells.subarray(LOOP_CELLS, LOOP_CELLS + HISTOGRAM_CELLS - 1),
    sum: cells[LOOP_CELLS + HISTOGRAM_CELLS - 1],
  };
}

/** Reads a tenant's metrics from summed cells: requests sent, refused, prompt and completion tokens. */
export function readTenant(cells: Float64Array, models: number, tenant: number): Float64Array {
  const base = tenantBase(models, tenant);
  return cells.subarray(base, base + TENANT_CELLS);
}

/** Reads one model's metrics from summed cells. */
export function readModel(
  cells: Float64Array,
  model: number,
): { outcomes: Float64Array; duration: HistogramReading; ttft: HistogramReading; tokens: Float64Array } {
  const base = modelBase(model);
  const histogram = (at: number): HistogramReading => ({
    counts: cells.subarray(at, at + HISTOGRAM_CELLS - 1),
    sum: cells[at + HISTOGRAM_CELLS - 1],
  });
  return {
    outcomes: cells.subarray(base, base + OUTCOMES.length),
    duration: histogram(base + OUTCOMES.length),
    ttft: histogram(base + OUTCOMES.length + HISTOGRAM_CELLS),
    tokens: cells.subarray(base + MODEL_CELLS - TOKEN_CELLS, base + MODEL_CELLS),
  };
}
