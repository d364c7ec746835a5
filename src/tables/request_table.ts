// SPDX-License-Identifier: Apache-2.0
// A worker's own area of request rows. The load of a request is counted on its endpoint through its row and taken off
// exactly once; when the worker dies, the control plane releases what the rows still hold.

import type { AttachedKernel } from "../../wasm/kernel.ts";
import { systemClock } from "../base/clock.ts";
import { assert } from "../base/assert.ts";
import { HIGH_ROW_CELL, ownCells } from "./metric_cells.ts";

export const RequestPhase = { free: 0, waiting: 1, granting: 2, granted: 3, prefilling: 4, decoding: 5 } as const;
export type RequestPhase = (typeof RequestPhase)[keyof typeof RequestPhase];

export class RequestTable {
  readonly #kernel: AttachedKernel;
  readonly #words: Int32Array;
  readonly #rowParts: RowParts;
  readonly #free: Uint32Array;
  #freeCount: number;
  readonly #cells: Float64Array;

  constructor(kernel: AttachedKernel) {
    this.#kernel = kernel;
    this.#words = new Int32Array(kernel.buffer);
    const rows = this.#words[kernel.exports.HEADER_REQUESTS];
    const first = kernel.worker * rows;
    this.#free = new Uint32Array(rows);
    for (let i = 0; i < rows; i++) this.#free[i] = first + rows - 1 - i;
    this.#freeCount = rows;
    this.#cells = ownCells(kernel);
    this.#rowParts = { kernel, words: this.#words, giveBack: this.#giveBack };
  }

  /** Rows of this worker that carry a request. */
  get open(): number {
    return this.#free.length - this.#freeCount;
  }

  get capacity(): number {
    return this.#free.length;
  }

  /** Opens a row in phase waiting; undefined when limits.requests_in_flight is used up. */
  tryOpen(cluster: number, model: number, promptBytes: number): RequestRow | undefined {
    if (this.#freeCount === 0) return undefined;
    const row = this.#free[this.#freeCount - 1];
    const generation = this.#kernel.exports.requestOpen(row, cluster, model, promptBytes);
    if (generation === 0) return undefined; // the supervisor has given this worker up
    this.#freeCount--;
    if (row > this.#cells[HIGH_ROW_CELL]) this.#cells[HIGH_ROW_CELL] = row;
    return new RequestRow(this.#rowParts, row, generation);
  }

  readonly #giveBack = (row: number): void => {
    assert(this.#freeCount < this.#free.length, "a request row is given back once");
    this.#free[this.#freeCount++] = row;
  };
}

/** What the rows of a table have in common. */
interface RowParts {
  readonly kernel: AttachedKernel;
  readonly words: Int32Array;
  readonly giveBack: (row: number) => void;
}

/** Name of the load that a row carries under a grant, unique in the gateway. */
export function loadName(row: number, generation: number, grant: number): string {
  return `${row}-${generation | 0}-${grant}`;
}

/** One open row. `release` may be called any number of times. */
export class RequestRow {
  readonly kernel: AttachedKernel;
  readonly words: Int32Array;
  readonly giveBack: (row: number) => void;
  #released = false;

  constructor(parts: RowParts, readonly row: number, readonly generation: number) {
    this.kernel = parts.kernel;
    this.words = parts.words;
    this.giveBack = parts.giveBack;
  }

  /** Whether it was released: the row may be another request's by now. */
  get over(): boolean {
    return this.#released;
  }

  get phase(): RequestPhase {
    const k = this.kernel.exports;
    return Atomics.load(this.words, (k.requestOffset(this.row) + k.REQUEST_PHASE) >>> 2) as RequestPhase;
  }

  /** Whether an endpoint was granted and nothing sent yet, and the row still is this request's. */
  get granted(): boolean {
    const k = this.kernel.exports;
    const generation = Atomics.load(this.words, (k.requestOffset(this.row) + k.REQUEST_GENERATION) >>> 2);
    return this.phase === RequestPhase.granted && generation >>> 0 === this.generation >>> 0;
  }

  /** Row of the granted endpoint. */
  get endpoint(): number {
    const k = this.kernel.exports;
    return this.words[(k.requestOffset(this.row) + k.REQUEST_ENDPOINT) >>> 2];
  }

  /** Says whose it is, and what was taken of that tenant's limits for it: for whoever settles it when its worker dies. */
  assign(tenant: number, { inputTokens, outputTokens }: { inputTokens: number; outputTokens: number }): void {
    const { words, kernel: { exports: k } } = this;
    const at = k.requestOffset(this.row) >>> 2;
    words[at + (k.REQUEST_TENANT >>> 2)] = tenant;
    words[at + (k.REQUEST_RESERVED_INPUT >>> 2)] = inputTokens;
    words[at + (k.REQUEST_RESERVED_OUTPUT >>> 2)] = outputTokens;
  }

  /** Counts it in its tenant's concurrency; false when `limit` requests are under way. */
  admit(tenant: number, limit: number): boolean {
    return this.kernel.exports.admit(this.row, tenant, limit) === 1;
  }

  /** Whether it is to make room for a request of higher priority. */
  get preempted(): boolean {
    return this.words[(this.kernel.exports.requestOffset(this.row) + this.kernel.exports.REQUEST_PREEMPTED) >>> 2] ===
      1;
  }

  /** Grants this row an endpoint; false when that endpoint stopped serving meanwhile. */
  grant(endpoint: number, cachedBytes: number, sharedMs = systemClock.shared()): boolean {
    const k = this.kernel.exports;
    const question = k.decisionOffset();
    this.words[(question + k.QUESTION_ROW) >>> 2] = endpoint;
    this.words[(question + k.QUESTION_MATCHED) >>> 2] = cachedBytes;
    return k.requestGrant(this.row, this.generation, sharedMs) === 1;
  }

  /** Name of the load that it is, unique in the gateway. */
  get loadName(): string {
    return loadName(this.row, this.generation, this.grantNumber);
  }

  /** Grows with each grant of its worker, modulo 2^32. */
  get grantNumber(): number {
    return this.words[(this.kernel.exports.requestOffset(this.row) + this.kernel.exports.REQUEST_GRANT) >>> 2];
  }

  /** What its endpoint holds of its prompt, known better than at the grant: bytes, with the kernel's mark. */
  know(matched: number): void {
    this.kernel.exports.requestKnow(this.row, this.generation, matched);
  }

  /** Marks it sent; returns the identity generation of its endpoint. `hidden`: its first token will not be seen. */
  dispatch(sharedMs: number, hidden: boolean): number {
    return this.kernel.exports.requestDispatch(this.row, this.generation, sharedMs, hidden ? 1 : 0);
  }

  /** Predicted ms from now to its first token on the granted endpoint. */
  predictMs(sharedMs: number): number {
    return this.kernel.exports.predictRequest(this.row, sharedMs);
  }

  /** Leading prompt bytes that its endpoint was presumed to hold at the grant. */
  get cachedBytes(): number {
    return this.#cached & (this.kernel.exports.EXACT - 1);
  }

  /** Whether its engine told that it holds them. */
  get cachedExactly(): boolean {
    return (this.#cached & this.kernel.exports.EXACT) !== 0;
  }

  get #cached(): number {
    return this.words[(this.kernel.exports.requestOffset(this.row) + this.kernel.exports.REQUEST_CACHED) >>> 2];
  }

  /** Uncached prompt bytes that it brought, and that were ahead of it, at the grant. */
  get uncachedBytes(): number {
    return this.words[(this.kernel.exports.requestOffset(this.row) + this.kernel.exports.REQUEST_UNCACHED) >>> 2] >>> 0;
  }

  get aheadBytes(): number {
    return this.words[(this.kernel.exports.requestOffset(this.row) + this.kernel.exports.REQUEST_AHEAD) >>> 2] >>> 0;
  }

  /** Takes its prompt bytes off the endpoint; returns the ms that its prefill took the first time, then -1. */
  firstToken(sharedMs: number): number {
    return this.#released ? -1 : this.kernel.exports.requestFirstToken(this.row, this.generation, sharedMs);
  }

  /** Takes its whole load off the endpoint and waits for another grant. */
  returnToWaiting(): void {
    this.kernel.exports.requestReturn(this.row, this.generation);
  }

  release(): void {
    if (this.#released) return;
    this.#released = true;
    this.kernel.exports.requestRelease(this.row, this.generation);
    this.giveBack(this.row);
  }
}

/** A request whose worker has died. */
export interface LostRequest {
  readonly phase: RequestPhase;
  readonly endpoint: number;
  readonly cluster: number;
  readonly model: number;
  readonly tenant: number;
  readonly promptBytes: number;
  /** Tokens taken of its tenant's limits by estimate. */
  readonly inputTokens: number;
  readonly outputTokens: number;
}

/** The open requests of a worker's area, before they are released. Control plane only. */
export function openRequests({ exports: k, buffer }: AttachedKernel, worker: number): LostRequest[] {
  const words = new Int32Array(buffer);
  const rows = words[k.HEADER_REQUESTS];
  const open: LostRequest[] = [];
  for (let row = worker * rows; row < (worker + 1) * rows; row++) {
    const at = k.requestOffset(row) >>> 2;
    const word = (field: number) => words[at + (field >>> 2)];
    const phase = Atomics.load(words, at + (k.REQUEST_PHASE >>> 2)) as RequestPhase;
    if (phase === RequestPhase.free) continue;
    open.push({
      phase,
      endpoint: word(k.REQUEST_ENDPOINT),
      cluster: word(k.REQUEST_CLUSTER),
      model: word(k.REQUEST_MODEL),
      tenant: word(k.REQUEST_TENANT),
      promptBytes: word(k.REQUEST_PROMPT) >>> 0,
      inputTokens: word(k.REQUEST_RESERVED_INPUT) >>> 0,
      outputTokens: word(k.REQUEST_RESERVED_OUTPUT) >>> 0,
    });
  }
  return open;
}
