// SPDX-License-Identifier: Apache-2.0
// What a worker counts: every counter and histogram has its cells in the worker's area, so recording is an addition to an
// array and reading is a sum over workers (readings.ts).

import type { Usage } from "../openai/usage.ts";
import {
  type CellLayout,
  DECISION_BUCKETS,
  DECISION_CELLS,
  DURATION_BUCKETS,
  ENDPOINT_CELLS,
  HISTOGRAM_CELLS,
  LOOP_CELLS,
  MODEL_CELLS,
  RETRY_REASONS,
  type RetryReason,
  TENANT_CELLS,
  TOKEN_BUCKETS,
  WORKER_CELLS,
} from "./cells.ts";
import type { Outcome } from "./outcome.ts";
import { pathNumber, RequestSeries } from "./request_series.ts";

/** How a request ended. */
export interface EndedRequest {
  readonly model: number;
  readonly tenant: number;
  readonly path: string;
  readonly outcome: Outcome;
  readonly seconds: number;
}

/** What an endpoint did for a request. */
export interface EndpointShare {
  readonly failed: boolean;
  readonly promptBytes: number;
  /** Of them, those that it was presumed to hold. */
  readonly presumedBytes: number;
  /** From the sending to the first token; undefined when none was seen. */
  readonly ttftSeconds: number | undefined;
  readonly usage: Usage | undefined;
}

/** Writes the metrics of one worker. */
export class Instruments {
  readonly #series: RequestSeries;

  constructor(readonly cells: Float64Array, readonly layout: CellLayout) {
    this.#series = new RequestSeries(cells, layout);
  }

  add(cell: number, value = 1): void {
    this.cells[cell] += value;
  }

  /** A request is moved to another endpoint. */
  retried(reason: RetryReason): void {
    this.cells[WORKER_CELLS.retries + RETRY_REASONS.indexOf(reason)]++;
  }

  /** A request ended. */
  ended({ model, tenant, path, outcome, seconds }: EndedRequest): void {
    this.#series.add(model, pathNumber(path), outcome, tenant, seconds);
    this.#observe(this.layout.model(model) + MODEL_CELLS.duration, seconds, DURATION_BUCKETS);
  }

  /** A request's worker died: when it came, and by which path, is not known. */
  lost(model: number, tenant: number, sent: boolean): void {
    this.#series.add(model, pathNumber(""), "worker_lost", tenant, 0);
    this.tenantEnded(tenant, sent, undefined);
  }

  /** A tenant's request ended. */
  tenantEnded(tenant: number, sent: boolean, usage: Usage | undefined): void {
    const base = this.layout.tenant(tenant);
    this.cells[base + (sent ? TENANT_CELLS.sent : TENANT_CELLS.refused)]++;
    this.cells[base + TENANT_CELLS.promptTokens] += usage?.promptTokens ?? 0;
    this.cells[base + TENANT_CELLS.completionTokens] += usage?.completionTokens ?? 0;
  }

  /** The first token of a stream, or the head of another answer, came so long after the request. */
  firstToken(model: number, stream: boolean, seconds: number): void {
    const at = this.layout.model(model) + (stream ? MODEL_CELLS.ttftStream : MODEL_CELLS.ttftWhole);
    this.#observe(at, seconds, DURATION_BUCKETS);
  }

  /** Mean time between the tokens of an answer. */
  tokenTime(model: number, seconds: number): void {
    this.#observe(this.layout.model(model) + MODEL_CELLS.tokenTime, seconds, TOKEN_BUCKETS);
  }

  /** A request got an endpoint, after so long a wait and a decision that took so long by itself. */
  granted(model: number, queueSeconds: number, decisionSeconds: number): void {
    this.#observe(this.layout.model(model) + MODEL_CELLS.queue, queueSeconds, DURATION_BUCKETS);
    this.#observe(DECISION_CELLS, decisionSeconds, DECISION_BUCKETS);
  }

  /** How much later than asked a timer of this worker fired. */
  loopDelay(seconds: number): void {
    this.#observe(LOOP_CELLS, seconds, DURATION_BUCKETS);
  }

  /** Tokens of an answer; `told` when they are an engine's count of a whole one. */
  usage(model: number, { promptTokens = 0, completionTokens = 0, cachedTokens = 0 }: Usage, told: boolean): void {
    const { cells } = this;
    const base = this.layout.model(model);
    cells[base + MODEL_CELLS.promptTokens] += promptTokens;
    cells[base + MODEL_CELLS.completionTokens] += completionTokens;
    cells[base + MODEL_CELLS.cachedTokens] += Math.min(promptTokens, cachedTokens);
    if (!told) return;
    cells[base + MODEL_CELLS.usageAnswers]++;
    cells[base + MODEL_CELLS.toldTokens] += completionTokens;
  }

  /** What an endpoint did for a request of a model. */
  served(model: number, endpoint: number, share: EndpointShare): void {
    const { cells } = this;
    const { failed, promptBytes, presumedBytes, ttftSeconds, usage } = share;
    const base = this.layout.endpoint(endpoint);
    cells[base + (failed ? ENDPOINT_CELLS.failed : ENDPOINT_CELLS.answered)]++;
    if (ttftSeconds !== undefined) {
      cells[base + ENDPOINT_CELLS.ttftSeconds] += ttftSeconds;
      cells[base + ENDPOINT_CELLS.ttfts]++;
    }
    if (failed) return;
    cells[base + ENDPOINT_CELLS.promptBytes] += promptBytes;
    cells[base + ENDPOINT_CELLS.presumedBytes] += presumedBytes;
    const ofModel = this.layout.model(model);
    cells[ofModel + MODEL_CELLS.promptBytes] += promptBytes;
    cells[ofModel + MODEL_CELLS.presumedBytes] += presumedBytes;
    if (usage?.promptTokens === undefined) return;
    cells[base + ENDPOINT_CELLS.promptTokens] += usage.promptTokens;
    cells[base + ENDPOINT_CELLS.cachedTokens] += Math.min(usage.promptTokens, usage.cachedTokens ?? 0);
  }

  #observe(base: number, seconds: number, bounds: readonly number[]): void {
    let bucket = 0;
    while (bucket < bounds.length && seconds > bounds[bucket]) bucket++;
    this.cells[base + bucket]++;
    this.cells[base + HISTOGRAM_CELLS - 1] += seconds;
  }
}
