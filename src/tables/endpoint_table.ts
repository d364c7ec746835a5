// SPDX-License-Identifier: Apache-2.0
// Typed view of the endpoint rows. The control plane alone adds, removes and changes rows; every thread reads them and
// counts on them through the kernel. A row is freed only when it serves no more and carries no request.

import type { AttachedKernel } from "../../wasm/kernel.ts";
import { assert } from "../base/assert.ts";
import { EndpointGroups } from "./endpoint_groups.ts";
import { EndpointLimits } from "./endpoint_limits.ts";
import { parseRanked, type RankedAddress, rankedName } from "../base/address.ts";

/**
 * What the control plane knows of an endpoint; 0 marks an unused row. unhealthy: its probes fail; ejected: its answers
 * failed; trial: one request decides whether it serves again.
 */
export const EndpointState = { unused: 0, available: 1, unhealthy: 2, draining: 3, ejected: 4, trial: 5 } as const;
export type EndpointState = (typeof EndpointState)[keyof typeof EndpointState];
export const ENDPOINT_STATE_NAMES = ["unused", "available", "unhealthy", "draining", "ejected", "trial"] as const;

/** Signals scraped from an engine; NaN where it has none. */
export interface Gauges {
  waiting: number;
  running: number;
  /** Share of the KV cache in use, 0 to 1. */
  kvUsage: number;
}

/** 8,000 tokens of 4 bytes a second. */
const DEFAULT_RATE = 1_000 / (8_000 * 4);

/** Learned rates stay within these ms a byte: a billion bytes a second, and a byte a second. */
const FASTEST_BYTE_MS = 1e-6;
const SLOWEST_BYTE_MS = 1_000;

/** What a decision looks at beside the requests in flight. */
export interface EndpointLoad {
  /** Prompt bytes before their first token, through any gateway. */
  readonly promptBytes: number;
  /** Of this gateway's, those that the endpoint has to compute. */
  readonly uncachedBytes: number;
  /** Ms that such a byte takes there. */
  readonly rate: number;
}

export class EndpointTable {
  readonly #kernel: AttachedKernel;
  readonly #words: Int32Array;
  readonly #floats: Float32Array;
  readonly #bytes: Uint8Array;
  readonly #groups: EndpointGroups;
  /** Most requests in flight on each. */
  readonly limits: EndpointLimits;
  /** How long an endpoint that failed once is left alone. */
  failureBackoffMs = 0;

  /** @param firstRate Ms that an uncached prompt byte takes on an endpoint that nothing is known of yet. */
  constructor(kernel: AttachedKernel, readonly firstRate = DEFAULT_RATE) {
    this.#kernel = kernel;
    this.#words = new Int32Array(kernel.buffer);
    this.#floats = new Float32Array(kernel.buffer);
    this.#bytes = new Uint8Array(kernel.buffer);
    this.#groups = new EndpointGroups(kernel);
    this.limits = new EndpointLimits(kernel);
  }

  /** Word index of a row's cell in a column. */
  #cell(column: number, row: number): number {
    return (this.#kernel.exports.columnOffset(column) >>> 2) + row;
  }

  /**
   * Gives the cluster a row for this address, serving from now on.
   * @param capacityChunks Prompt chunks that its KV cache holds.
   * @param labelSets Eligibility bits (3 to 31) of the label sets that the endpoint belongs to.
   * Throws RangeError when limits.endpoints is used up.
   */
  add(cluster: number, address: RankedAddress, capacityChunks: number, labelSets: number): number {
    const k = this.#kernel.exports;
    const row = this.#groups.take(cluster);
    this.#writeIdentity(row, rankedName(address));
    const counters = [
      k.ENDPOINT_HEAD_AT,
      k.ENDPOINT_FAILURES,
      k.ENDPOINT_SUCCESSES,
      k.ENDPOINT_DISPATCHED,
      k.ENDPOINT_PENALTY,
      k.ENDPOINT_BACK_OFF,
    ];
    for (
      const column of [
        ...counters,
        k.ENDPOINT_REMOTE_REQUESTS,
        k.ENDPOINT_REMOTE_PROMPT,
        k.ENDPOINT_ADAPTERS,
        k.ENDPOINT_ADAPTERS + 1,
        k.ENDPOINT_LISTED,
        k.ENDPOINT_LISTED + 1,
        k.ENDPOINT_HEARD,
        k.ENDPOINT_TELLS,
        k.ENDPOINT_ASKED,
        k.ENDPOINT_BLOCK_TOKENS,
      ]
    ) {
      Atomics.store(this.#words, this.#cell(column, row), 0);
    }
    this.setRate(row, this.firstRate);
    this.limits.reset(row);
    this.setCapacity(row, capacityChunks);
    k.indexForget(row);
    this.setGauges(row, { waiting: NaN, running: NaN, kvUsage: NaN });
    Atomics.store(this.#words, this.#cell(k.ENDPOINT_STATE, row), EndpointState.available);
    const labels = labelSets & (-1 << k.LABEL_BITS);
    Atomics.store(this.#words, this.#cell(k.ENDPOINT_ELIGIBILITY, row), labels | k.SERVING | k.NOT_BACKED_OFF);
    return row;
  }

  /** Replaces the label sets, as eligibility bits (3 to 31); whether it serves, is backed off or on trial stays as it is. */
  setLabels(row: number, labelSets: number): void {
    const k = this.#kernel.exports;
    assert(this.state(row) !== EndpointState.unused, "the row is in use");
    const labelBits = -1 << k.LABEL_BITS;
    const eligibility = this.#cell(k.ENDPOINT_ELIGIBILITY, row);
    let before = Atomics.load(this.#words, eligibility);
    for (;;) {
      const after = (before & ~labelBits) | (labelSets & labelBits);
      const found = Atomics.compareExchange(this.#words, eligibility, before, after);
      if (found === before) return;
      before = found;
    }
  }

  /** Changes the state; an available endpoint serves, one on trial until it has taken its request, others in `panic`. */
  setState(row: number, state: EndpointState, panic = false): void {
    const k = this.#kernel.exports;
    assert(this.state(row) !== EndpointState.unused && state !== EndpointState.unused, "the row is in use");
    const eligibility = this.#cell(k.ENDPOINT_ELIGIBILITY, row);
    if (state === EndpointState.trial) Atomics.or(this.#words, eligibility, k.TRIAL);
    if (state === EndpointState.available || state === EndpointState.trial || panic) {
      Atomics.or(this.#words, eligibility, k.SERVING);
    } else Atomics.and(this.#words, eligibility, ~k.SERVING);
    if (state !== EndpointState.trial) Atomics.and(this.#words, eligibility, ~k.TRIAL);
    Atomics.store(this.#words, this.#cell(k.ENDPOINT_STATE, row), state);
  }

  /** Lets an unhealthy endpoint serve, or no longer; true when that changes something. */
  setPanic(row: number, serves: boolean): boolean {
    const { ENDPOINT_ELIGIBILITY, SERVING } = this.#kernel.exports;
    assert(this.state(row) === EndpointState.unhealthy, "only who is unhealthy serves by panic");
    const eligibility = this.#cell(ENDPOINT_ELIGIBILITY, row);
    const before = serves
      ? Atomics.or(this.#words, eligibility, SERVING)
      : Atomics.and(this.#words, eligibility, ~SERVING);
    return ((before & SERVING) !== 0) !== serves;
  }

  /** Frees a row that no longer serves; false while it still carries requests. */
  remove(cluster: number, row: number): boolean {
    const k = this.#kernel.exports;
    assert(this.state(row) !== EndpointState.available, "a serving row is drained before it is removed");
    if (this.requests(row) !== 0) return false;
    Atomics.store(this.#words, this.#cell(k.ENDPOINT_ELIGIBILITY, row), 0);
    Atomics.store(this.#words, this.#cell(k.ENDPOINT_STATE, row), EndpointState.unused);
    k.indexForget(row);
    this.#groups.free(cluster, row);
    return true;
  }

  /**
   * Gives the groups of a cluster back whose rows are all unused; false while one is in use. The caller guarantees that no
   * request of the cluster is open any more.
   */
  removeCluster(cluster: number): boolean {
    if (this.rowsOf(cluster).length > 0) return false;
    this.#groups.remove(cluster);
    return true;
  }

  #writeIdentity(row: number, text: string): void {
    const k = this.#kernel.exports;
    const generation = this.#cell(k.ENDPOINT_GENERATION, row);
    const offset = k.identityOffset(row);
    const encoded = new TextEncoder().encode(text);
    assert(encoded.length <= k.IDENTITY_BYTES - 4, "a host name has at most 253 characters");
    Atomics.add(this.#words, generation, 1);
    this.#words[offset >>> 2] = encoded.length;
    this.#bytes.set(encoded, offset + 4);
    Atomics.add(this.#words, generation, 1);
  }

  /** Identity generation: changes when the row is given to another address, odd while that happens. */
  generation(row: number): number {
    return Atomics.load(this.#words, this.#cell(this.#kernel.exports.ENDPOINT_GENERATION, row));
  }

  /** The endpoint's address, read under its generation. */
  address(row: number): RankedAddress {
    for (;;) {
      const before = this.generation(row);
      const offset = this.#kernel.exports.identityOffset(row);
      const text = new TextDecoder().decode(this.#bytes.slice(offset + 4, offset + 4 + this.#words[offset >>> 2]));
      if (before % 2 === 0 && this.generation(row) === before) {
        const address = parseRanked(text);
        assert(address, `row ${row} holds an address`);
        return address;
      }
    }
  }

  /** Rows of a cluster that are in use, in list order. */
  rowsOf(cluster: number): number[] {
    const { GROUP_ROWS } = this.#kernel.exports;
    const rows: number[] = [];
    for (const group of this.#groups.of(cluster)) {
      for (let row = group * GROUP_ROWS; row < (group + 1) * GROUP_ROWS; row++) {
        if (this.state(row) !== EndpointState.unused) rows.push(row);
      }
    }
    return rows;
  }

  state(row: number): EndpointState {
    return this.#load(this.#kernel.exports.ENDPOINT_STATE, row) as EndpointState;
  }

  /** Unfinished requests of this gateway on the endpoint. */
  requests(row: number): number {
    return this.#load(this.#kernel.exports.ENDPOINT_REQUESTS, row);
  }

  /** Prompt bytes of this gateway on the endpoint that are still before their first token. */
  promptBytes(row: number): number {
    return this.#load(this.#kernel.exports.ENDPOINT_PROMPT, row) >>> 0;
  }

  /** Of these, the bytes that it was not presumed to hold: its prefill work. */
  uncachedBytes(row: number): number {
    return this.#load(this.#kernel.exports.ENDPOINT_UNCACHED, row) >>> 0;
  }

  remoteRequests(row: number): number {
    return this.#load(this.#kernel.exports.ENDPOINT_REMOTE_REQUESTS, row);
  }

  remotePromptBytes(row: number): number {
    return this.#load(this.#kernel.exports.ENDPOINT_REMOTE_PROMPT, row) >>> 0;
  }

  /** Sets the load that other gateways cause. */
  setRemote(row: number, requests: number, promptBytes: number): void {
    const k = this.#kernel.exports;
    Atomics.store(this.#words, this.#cell(k.ENDPOINT_REMOTE_REQUESTS, row), requests);
    Atomics.store(this.#words, this.#cell(k.ENDPOINT_REMOTE_PROMPT, row), promptBytes);
  }

  /** Requests ever sent to the endpoint. */
  dispatched(row: number): number {
    return this.#load(this.#kernel.exports.ENDPOINT_DISPATCHED, row) >>> 0;
  }

  /** Failures that workers met since the last success. */
  failures(row: number): number {
    return this.#load(this.#kernel.exports.ENDPOINT_FAILURES, row);
  }

  /** The endpoint failed: that counts, and it is left alone for a while. Failing fast earns no traffic. */
  countFailure(row: number, times = 1): void {
    Atomics.add(this.#words, this.#cell(this.#kernel.exports.ENDPOINT_FAILURES, row), times);
    if (this.failureBackoffMs > 0) this.backOff(row, this.failureBackoffMs);
  }

  /** Whether workers have told nothing of it that the control plane has to see to. */
  quiet(row: number): boolean {
    const k = this.#kernel.exports;
    return this.#words[this.#cell(k.ENDPOINT_FAILURES, row)] === 0 &&
      this.#words[this.#cell(k.ENDPOINT_BACK_OFF, row)] === 0 &&
      this.#words[this.#cell(k.ENDPOINT_ASKED, row)] === 0;
  }

  clearFailures(row: number): void {
    const cell = this.#cell(this.#kernel.exports.ENDPOINT_FAILURES, row);
    if (this.#words[cell] !== 0) Atomics.store(this.#words, cell, 0);
  }

  /** The endpoint has begun to answer as it should; a run of failures ends with `clearFailures`, when it is done. */
  countSuccess(row: number): void {
    Atomics.add(this.#words, this.#cell(this.#kernel.exports.ENDPOINT_SUCCESSES, row), 1);
  }

  successes(row: number): number {
    return this.#load(this.#kernel.exports.ENDPOINT_SUCCESSES, row);
  }

  /** Backs off from an endpoint for a while: it is chosen when there is no other. */
  backOff(row: number, ms: number): void {
    const k = this.#kernel.exports;
    // The time first: who sees a row backed off without one ends it.
    const cell = this.#cell(k.ENDPOINT_BACK_OFF, row);
    Atomics.store(this.#words, cell, Math.max(1, Math.ceil(ms), Atomics.load(this.#words, cell)));
    Atomics.and(this.#words, this.#cell(k.ENDPOINT_ELIGIBILITY, row), ~k.NOT_BACKED_OFF);
  }

  /** Takes the milliseconds that `backOff` was called with since the last time; 0 for none. Control plane only. */
  takeBackOff(row: number): number {
    const cell = this.#cell(this.#kernel.exports.ENDPOINT_BACK_OFF, row);
    return this.#words[cell] === 0 ? 0 : Atomics.exchange(this.#words, cell, 0);
  }

  endBackOff(row: number): void {
    const k = this.#kernel.exports;
    Atomics.or(this.#words, this.#cell(k.ENDPOINT_ELIGIBILITY, row), k.NOT_BACKED_OFF);
  }

  backedOff(row: number): boolean {
    const k = this.#kernel.exports;
    return (this.#load(k.ENDPOINT_ELIGIBILITY, row) & k.NOT_BACKED_OFF) === 0;
  }

  /** Whether a row is the cluster's and has the label sets of these eligibility bits. */
  belongs(row: number, cluster: number, eligibility: number): boolean {
    const k = this.#kernel.exports;
    const labels = eligibility & (-1 << k.LABEL_BITS);
    return (this.#load(k.ENDPOINT_ELIGIBILITY, row) & labels) === labels && this.rowsOf(cluster).includes(row);
  }

  /** Whether it may be chosen right now. */
  serving(row: number): boolean {
    const k = this.#kernel.exports;
    return (this.#load(k.ENDPOINT_ELIGIBILITY, row) & k.SERVING) !== 0;
  }

  /** Requests that it is scored to have beyond its own. */
  setPenalty(row: number, requests: number): void {
    Atomics.store(this.#words, this.#cell(this.#kernel.exports.ENDPOINT_PENALTY, row), requests);
  }

  penalty(row: number): number {
    return this.#load(this.#kernel.exports.ENDPOINT_PENALTY, row);
  }

  /** Ms that an uncached prompt byte takes there. */
  rate(row: number): number {
    return this.#floats[this.#cell(this.#kernel.exports.ENDPOINT_RATE, row)];
  }

  /** What a decision looks at beside the requests in flight. */
  load(row: number): EndpointLoad {
    return {
      promptBytes: this.promptBytes(row) + this.remotePromptBytes(row),
      uncachedBytes: this.uncachedBytes(row),
      rate: this.rate(row),
    };
  }

  setRate(row: number, msPerByte: number): void {
    this.#floats[this.#cell(this.#kernel.exports.ENDPOINT_RATE, row)] = Math.min(
      SLOWEST_BYTE_MS,
      Math.max(FASTEST_BYTE_MS, msPerByte),
    );
  }

  capacityChunks(row: number): number {
    return this.#load(this.#kernel.exports.ENDPOINT_CAPACITY, row) >>> 0;
  }

  setCapacity(row: number, chunks: number): void {
    const before = Atomics.exchange(this.#words, this.#cell(this.#kernel.exports.ENDPOINT_CAPACITY, row), chunks);
    // What it was presumed to hold was counted in parts of the capacity, a power of two of chunks each.
    if (Math.clz32(before >>> 5) !== Math.clz32(chunks >>> 5)) this.#kernel.exports.indexForget(row);
    this.#setIdle(row);
  }

  // What running requests use of the cache is not given up, and the rest is all that others can be found in.
  #setIdle(row: number): void {
    const { kvUsage } = this.gauges(row);
    const idle = this.capacityChunks(row) * (1 - (Number.isNaN(kvUsage) ? 0 : Math.max(0, Math.min(1, kvUsage))));
    Atomics.store(this.#words, this.#cell(this.#kernel.exports.ENDPOINT_IDLE, row), Math.floor(idle));
    this.#kernel.exports.indexEvict(row);
  }

  gauges(row: number): Gauges {
    const k = this.#kernel.exports;
    return {
      waiting: this.#floats[this.#cell(k.ENDPOINT_WAITING, row)],
      running: this.#floats[this.#cell(k.ENDPOINT_RUNNING, row)],
      kvUsage: this.#floats[this.#cell(k.ENDPOINT_KV_USAGE, row)],
    };
  }

  setGauges(row: number, { waiting, running, kvUsage }: Gauges): void {
    const k = this.#kernel.exports;
    this.#floats[this.#cell(k.ENDPOINT_WAITING, row)] = waiting;
    this.#floats[this.#cell(k.ENDPOINT_RUNNING, row)] = running;
    this.#floats[this.#cell(k.ENDPOINT_KV_USAGE, row)] = kvUsage;
    this.#setIdle(row);
  }

  #load(column: number, row: number): number {
    return Atomics.load(this.#words, this.#cell(column, row));
  }
}
