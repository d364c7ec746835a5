// SPDX-License-Identifier: Apache-2.0
// Requests on an engine before their first token, and first tokens that nobody sees, those of answers that are not streamed. Engines serve first come, first served: when one
// says that w requests wait in it, all of ours there but the last w, and the one being prefilled, have had theirs.

import type { AttachedKernel } from "../../wasm/kernel.ts";
import { HIGH_ROW_CELL, readCell } from "../tables/metric_cells.ts";
import { RequestPhase } from "../tables/request_table.ts";

/** Share of a predicted prefill after which it may be over, when the engine has nobody waiting. */
const MAX_SHARE = 0.9;

/** How long a pass over the request rows is good for, ms. */
const SCAN_MS = 5;

interface Prefill {
  row: number;
  generation: number;
  sentAt: number;
  hidden: boolean;
}

export class HiddenPrefills {
  readonly #words: Int32Array;
  readonly #floats: Float64Array;
  readonly #rates: Float32Array;
  readonly #rows: number;
  readonly #workers: number;
  readonly #prefills = new Map<number, Prefill[]>();
  #scannedAt = -Infinity;

  constructor(readonly kernel: AttachedKernel) {
    this.#words = new Int32Array(kernel.buffer);
    this.#floats = new Float64Array(kernel.buffer);
    this.#rates = new Float32Array(kernel.buffer);
    this.#rows = this.#words[kernel.exports.HEADER_REQUESTS];
    this.#workers = this.#words[kernel.exports.HEADER_WORKERS];
  }

  /**
   * Takes the prompt load of those requests off an endpoint that are past their prefill, when `waiting` requests waited in
   * it at `atMs` (shared ms), as is known at `nowMs`. Returns how many; the caller then fills the room.
   */
  observe(endpoint: number, waiting: number, atMs: number, nowMs = atMs): number {
    if (!(waiting >= 0)) return 0;
    const prefills = this.#prefillsOf(endpoint, atMs, nowMs);
    const done = prefills.length - waiting - 1;
    let count = 0;
    for (let i = 0; i < prefills.length; i++) {
      const { row, generation, hidden } = prefills[i];
      // With nobody waiting the last one is over or nearly so when most of its time has passed: an engine that may be idle
      // does not wait for a prediction that is too long.
      const over = i < done || (i === done && waiting === 0 && this.#mostly(endpoint, row, nowMs));
      if (over && hidden && this.kernel.exports.requestFirstToken(row, generation, nowMs) >= 0) count++;
    }
    return count;
  }

  /** Whether there are first tokens on an endpoint that nobody will see. */
  any(endpoint: number, nowMs: number): boolean {
    return this.#prefillsOf(endpoint, Infinity, nowMs).some(({ hidden }) => hidden);
  }

  /** Ms for which the first of the requests on an endpoint that were sent before a time waits for its first token; 0: none. */
  oldestMs(endpoint: number, atMs: number, nowMs: number): number {
    const [oldest] = this.#prefillsOf(endpoint, atMs, nowMs);
    return oldest === undefined ? 0 : nowMs - oldest.sentAt;
  }

  #mostly(endpoint: number, row: number, nowMs: number): boolean {
    const k = this.kernel.exports;
    const rate = this.#rates[(k.columnOffset(k.ENDPOINT_RATE) >>> 2) + endpoint];
    const bytes = this.#words[(k.requestOffset(row) + k.REQUEST_UNCACHED) >>> 2] >>> 0;
    const began = this.#words[(k.columnOffset(k.ENDPOINT_HEAD_AT) >>> 2) + endpoint];
    const sinceMs = ((Number(BigInt.asIntN(32, BigInt(Math.floor(nowMs * 16)))) - began) | 0) / 16;
    return sinceMs >= MAX_SHARE * rate * bytes;
  }

  // Requests on an endpoint that were sent before a time and are before their first token, the oldest first.
  #prefillsOf(endpoint: number, atMs: number, nowMs: number): Prefill[] {
    const k = this.kernel.exports;
    // Most endpoints have none at most times.
    if (this.#words[(k.columnOffset(k.ENDPOINT_UNCACHED) >>> 2) + endpoint] === 0) return [];
    if (nowMs - this.#scannedAt >= SCAN_MS || nowMs < this.#scannedAt) this.#scan(nowMs);
    const list = this.#prefills.get(endpoint) ?? [];
    return list.filter(({ row, sentAt }) =>
      sentAt < atMs && this.#words[(k.requestOffset(row) + k.REQUEST_PHASE) >>> 2] === RequestPhase.prefilling
    );
  }

  // One pass over the rows serves the endpoints that tell in the same moment.
  #scan(nowMs: number): void {
    const k = this.kernel.exports;
    this.#scannedAt = nowMs;
    this.#prefills.clear();
    for (let worker = 1; worker < this.#workers; worker++) {
      const last = readCell(this.kernel, worker, HIGH_ROW_CELL);
      for (let row = worker * this.#rows; row <= last; row++) {
        const at = k.requestOffset(row) >>> 2;
        if (this.#words[at + (k.REQUEST_PHASE >>> 2)] !== RequestPhase.prefilling) continue;
        const endpoint = this.#words[at + (k.REQUEST_ENDPOINT >>> 2)];
        const list = this.#prefills.get(endpoint) ?? [];
        this.#prefills.set(endpoint, list);
        list.push({
          row,
          generation: this.#words[at + (k.REQUEST_GENERATION >>> 2)],
          sentAt: this.#floats[(k.requestOffset(row) + k.REQUEST_SENT) >>> 3],
          hidden: this.#words[at + (k.REQUEST_HIDDEN >>> 2)] === 1,
        });
      }
    }
    for (const list of this.#prefills.values()) list.sort((a, b) => a.sentAt - b.sentAt);
  }
}
