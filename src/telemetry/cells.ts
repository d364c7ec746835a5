// SPDX-License-Identifier: Apache-2.0
// Where in a worker's area of metric cells everything is counted.

import { HIGH_ROW_CELL } from "../tables/metric_cells.ts";
import { OUTCOMES } from "./outcome.ts";
import type { HistogramValues } from "./prometheus.ts";

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

/** The same of a decision, and of one token: as many, so that every histogram has as many cells. */
export const DECISION_BUCKETS = [
  0.000_002,
  0.000_005,
  0.000_01,
  0.000_015,
  0.000_02,
  0.000_03,
  0.000_05,
  0.000_075,
  0.000_1,
  0.000_15,
  0.000_2,
  0.000_3,
  0.000_5,
  0.001,
  0.002_5,
  0.005,
  0.01,
  0.1,
] as const;
export const TOKEN_BUCKETS = [
  0.001,
  0.002,
  0.004,
  0.006,
  0.008,
  0.01,
  0.015,
  0.02,
  0.025,
  0.03,
  0.04,
  0.05,
  0.075,
  0.1,
  0.15,
  0.25,
  0.5,
  1,
] as const;

/** A histogram's cells: a count for each bucket, one above them, and the sum. */
export const HISTOGRAM_CELLS = DURATION_BUCKETS.length + 2;

/** Why a request was moved to another endpoint. */
export const RETRY_REASONS = ["refused", "lost", "timeout", "silent", "busy", "failed", "rejected"] as const;
export type RetryReason = (typeof RETRY_REASONS)[number];

/** Cells that belong to a worker as a whole. */
export const WORKER_CELLS = {
  heartbeat: 0,
  connectFailures: 1,
  pieces: 2,
  bytes: 3,
  savesDropped: 4,
  logLinesDropped: 5,
  highRow: HIGH_ROW_CELL,
  retriesRefused: 7,
  memory: 8,
  /** The oldest snapshot that a request under way was begun with. */
  snapshot: 9,
  replicaFaults: 10,
  suspicions: 11,
  /** Requests for a model that nobody knows. */
  unknownModels: 12,
  hedges: 13,
  hedgesWon: 14,
  llmLinesDropped: 15,
  /** Connections of clients to direct listeners, and those that were turned away. */
  clientConnections: 16,
  clientsRefused: 17,
  /** Bytes of the worker's heap in use, and allocated since its start, as the engine of the language says. */
  heapUsed: 18,
  allocated: 19,
  /** First of the retries, by reason. */
  retries: 20,
} as const;
/** Of them, what is as it is now, and not counted. */
export const GAUGES: readonly number[] = [WORKER_CELLS.clientConnections, WORKER_CELLS.heapUsed, WORKER_CELLS.memory];
/** The histograms of the event loop's delay, and of what decisions took. */
export const LOOP_CELLS = WORKER_CELLS.retries + RETRY_REASONS.length;
export const DECISION_CELLS = LOOP_CELLS + HISTOGRAM_CELLS;
const WORKER_CELL_COUNT = DECISION_CELLS + HISTOGRAM_CELLS;

/** Cells of a model: its histograms, then what is counted. */
export const MODEL_CELLS = {
  duration: 0,
  /** To the first token of a stream, and to the head of an answer that is none. */
  ttftStream: HISTOGRAM_CELLS,
  ttftWhole: 2 * HISTOGRAM_CELLS,
  /** Mean time between the tokens of an answer. */
  tokenTime: 3 * HISTOGRAM_CELLS,
  queue: 4 * HISTOGRAM_CELLS,
  promptTokens: 5 * HISTOGRAM_CELLS,
  completionTokens: 5 * HISTOGRAM_CELLS + 1,
  cachedTokens: 5 * HISTOGRAM_CELLS + 2,
  usageAnswers: 5 * HISTOGRAM_CELLS + 3,
  promptBytes: 5 * HISTOGRAM_CELLS + 4,
  presumedBytes: 5 * HISTOGRAM_CELLS + 5,
  /** Generated tokens of the answers that told their usage. */
  toldTokens: 5 * HISTOGRAM_CELLS + 6,
} as const;
const MODEL_CELL_COUNT = 5 * HISTOGRAM_CELLS + 7;

/** Of a tenant: requests sent to an engine, requests that were not, prompt and completion tokens. */
export const TENANT_CELLS = { sent: 0, refused: 1, promptTokens: 2, completionTokens: 3 } as const;
const TENANT_CELL_COUNT = 4;

/** Of an endpoint, as far as it answered. */
export const ENDPOINT_CELLS = {
  answered: 0,
  failed: 1,
  /** Seconds from the sending to the first token, and how many they are the sum of. */
  ttftSeconds: 2,
  ttfts: 3,
  promptBytes: 4,
  /** Of them, those that it was presumed to hold. */
  presumedBytes: 5,
  promptTokens: 6,
  /** Of them, those that it says it held. */
  cachedTokens: 7,
} as const;
const ENDPOINT_CELL_COUNT = 8;

/** Cells of a series: its key, requests, and seconds. */
export const SERIES_CELLS = 3;

/** How many there are of each. */
export interface CellLimits {
  readonly models: number;
  readonly tenants: number;
  readonly endpoints: number;
  readonly metric_series: number;
}

/** The layout of an area, by the limits of the configuration. */
export class CellLayout {
  readonly #tenants: number;
  readonly #endpoints: number;
  /** First cell of the series of requests: one for each outcome alone, then the table of those by all labels. */
  readonly series: number;
  readonly count: number;
  /** Row of the metrics of requests for no known model. */
  readonly unknownModel: number;

  constructor(readonly limits: CellLimits) {
    this.unknownModel = limits.models;
    this.#tenants = WORKER_CELL_COUNT + (limits.models + 1) * MODEL_CELL_COUNT;
    this.#endpoints = this.#tenants + limits.tenants * TENANT_CELL_COUNT;
    this.series = this.#endpoints + limits.endpoints * ENDPOINT_CELL_COUNT;
    this.count = this.series + (OUTCOMES.length + limits.metric_series) * SERIES_CELLS;
  }

  /** First cell of a model. */
  model(row: number): number {
    return WORKER_CELL_COUNT + row * MODEL_CELL_COUNT;
  }

  tenant(row: number): number {
    return this.#tenants + row * TENANT_CELL_COUNT;
  }

  endpoint(row: number): number {
    return this.#endpoints + row * ENDPOINT_CELL_COUNT;
  }

  /** First cell and number of the cells of a name, to be cleared when its row becomes another's. */
  cellsOf(kind: "model" | "tenant" | "endpoint", row: number): [first: number, count: number] {
    const counts = { model: MODEL_CELL_COUNT, tenant: TENANT_CELL_COUNT, endpoint: ENDPOINT_CELL_COUNT };
    return [this[kind](row), counts[kind]];
  }
}

/** The histogram that begins at a cell. */
export function histogramAt(cells: Float64Array, at: number): HistogramValues {
  return { counts: cells.subarray(at, at + HISTOGRAM_CELLS - 1), sum: cells[at + HISTOGRAM_CELLS - 1] };
}
