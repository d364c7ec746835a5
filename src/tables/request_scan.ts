// SPDX-License-Identifier: Apache-2.0
// The control plane's view of all workers' requests: what changed since it last looked. Requests are reported to the
// metadata center from here, so that workers send no message for it; one that comes and goes between two looks loads no
// engine for long and is not reported.

import type { AttachedKernel } from "../../wasm/kernel.ts";
import { HIGH_ROW_CELL, readCell } from "./metric_cells.ts";
import { loadName, RequestPhase } from "./request_table.ts";

export type RequestChange =
  | { kind: "granted"; id: string; endpoint: number; promptBytes: number }
  | { kind: "first token"; id: string }
  | { kind: "ended"; id: string };

interface Seen {
  id: string;
  endpoint: number;
  promptBytes: number;
  generation: number;
  grants: number;
  counted: boolean;
}

export class RequestScan {
  readonly #seen = new Map<number, Seen>();
  readonly #words: Int32Array;
  readonly #first: number;
  readonly #stride: number;
  readonly #rows: number;
  readonly #workers: number;

  /** @param prefix Makes ids unique over gateways. */
  constructor(readonly kernel: AttachedKernel, readonly prefix: string) {
    const k = kernel.exports;
    this.#words = new Int32Array(kernel.buffer);
    this.#first = k.requestOffset(0) >>> 2;
    this.#stride = k.REQUEST_BYTES >>> 2;
    this.#rows = this.#words[k.HEADER_REQUESTS];
    this.#workers = this.#words[k.HEADER_WORKERS];
  }

  /** Every change since the last call, in an order in which they can be applied. */
  changes(): RequestChange[] {
    const changes: RequestChange[] = [];
    for (let worker = 1; worker < this.#workers; worker++) {
      const last = readCell(this.kernel, worker, HIGH_ROW_CELL);
      for (let row = worker * this.#rows; row <= last; row++) this.#look(row, changes);
    }
    return changes;
  }

  #look(row: number, changes: RequestChange[]): void {
    const k = this.kernel.exports;
    const at = this.#first + row * this.#stride;
    const phase = this.#words[at + (k.REQUEST_PHASE >>> 2)];
    const seen = this.#seen.size > 0 ? this.#seen.get(row) : undefined;
    if (seen === undefined && phase < RequestPhase.granted) return;
    const generation = this.#words[at + (k.REQUEST_GENERATION >>> 2)];
    const grants = this.#words[at + (k.REQUEST_GRANT >>> 2)];
    const endpoint = this.#words[at + (k.REQUEST_ENDPOINT >>> 2)];
    const promptBytes = this.#words[at + (k.REQUEST_PROMPT >>> 2)] >>> 0;
    const counted = this.#words[at + (k.REQUEST_COUNTED >>> 2)] === 1;
    const carries = Atomics.load(this.#words, at + (k.REQUEST_PHASE >>> 2)) >= RequestPhase.granted;
    const same = seen !== undefined && carries && seen.generation === generation && seen.grants === grants;
    if (seen !== undefined && !same) {
      changes.push({ kind: "ended", id: seen.id });
      this.#seen.delete(row);
    }
    if (carries && !same) {
      const id = `${this.prefix}-${loadName(row, generation, grants)}`;
      this.#seen.set(row, { id, endpoint, promptBytes, generation, grants, counted: true });
      changes.push({ kind: "granted", id, endpoint, promptBytes });
    }
    const now = this.#seen.get(row);
    if (now?.counted && carries && !counted) {
      now.counted = false;
      changes.push({ kind: "first token", id: now.id });
    }
  }

  /** All open requests as if they were new: for a center that knows nothing. */
  open(): RequestChange[] {
    const changes: RequestChange[] = [];
    for (const { id, endpoint, promptBytes, counted } of this.#seen.values()) {
      changes.push({ kind: "granted", id, endpoint, promptBytes });
      if (!counted) changes.push({ kind: "first token", id });
    }
    return changes;
  }
}
