// SPDX-License-Identifier: Apache-2.0
// One scheduling decision on this thread: prompt text into scratch, hashes, index lookup, candidates, score, pick. The
// kernel does the work; this file carries values in and out of its scratch.

import type { AttachedKernel } from "../../wasm/kernel.ts";
import { type QuestionFields, questionFields } from "../tables/question.ts";
import type { RequestRow } from "../tables/request_table.ts";
import type { InferenceRequest } from "../openai/request.ts";
import { BodyScanner, ScannedPrompt } from "./body_scan.ts";
import { type CacheKnowledge, type HashedPrompt, PresumedCaches } from "./cache_knowledge.ts";
import type { AskedBlocks } from "../tokens/prompt_tokens.ts";
import type { Placement } from "./placement.ts";

/** What the queue orders a request by. */
export interface FlowPriority {
  /** Priority band, 0 first. */
  readonly band: number;
  /** Tenant row. */
  readonly tenant: number;
  /** When its first token is due, in shared ms; 0 for no such time. */
  readonly deadlineMs: number;
}

export const NO_ENDPOINT = -1;
export const QUEUED = -2;
export const HOPELESS = -3;

/** One candidate of an explained decision. */
export interface Candidate {
  row: number;
  requests: number;
  /** Leading bytes of the prompt that it is presumed to hold. */
  cachedBytes: number;
  /** Whether its engine told so. */
  cachedExactly: boolean;
  score: number;
  /** Whether it would be granted a request of the queue; undefined where there is none. */
  room: boolean | undefined;
}

/** An explained decision. */
export interface Explanation {
  chosen: number;
  chunks: number;
  /** Leading bytes that every endpoint is presumed to hold. */
  everywhereBytes: number;
  /** Leading bytes that many prompts begin with: they draw it nowhere. */
  sharedBytes: number;
  candidates: Candidate[];
}

export class DecisionMaker {
  readonly #kernel: AttachedKernel;
  readonly #text: Uint8Array;
  readonly #textBytes: number;
  readonly #hashes: BigUint64Array;
  readonly #words: Int32Array;
  readonly #floats: Float32Array;
  readonly #doubles: Float64Array;
  readonly #question: QuestionFields;
  /** A bit for each endpoint row. */
  readonly #allowed: Uint8Array;
  readonly #promptColumn: number;
  readonly #uncachedColumn: number;
  readonly #encoder = new TextEncoder();
  readonly #scanner: BodyScanner;
  /** The scanned prompt whose text stands in scratch. */
  #standing: ScannedPrompt | undefined;

  constructor(kernel: AttachedKernel, readonly caches: CacheKnowledge = new PresumedCaches(kernel)) {
    const k = kernel.exports;
    this.#kernel = kernel;
    this.#words = new Int32Array(kernel.buffer);
    this.#floats = new Float32Array(kernel.buffer);
    this.#doubles = new Float64Array(kernel.buffer);
    const chunks = this.#words[k.HEADER_CHUNKS];
    this.#textBytes = chunks * k.CHUNK_BYTES;
    this.#text = new Uint8Array(kernel.buffer, k.textOffset(), this.#textBytes);
    this.#hashes = new BigUint64Array(kernel.buffer, k.hashOffset(), chunks);
    this.#question = questionFields(kernel);
    this.#scanner = new BodyScanner(kernel);
    this.#allowed = new Uint8Array(kernel.buffer, k.allowedOffset(), this.#words[k.HEADER_ENDPOINTS] >>> 3);
    this.#promptColumn = k.ENDPOINT_PROMPT;
    this.#uncachedColumn = k.ENDPOINT_UNCACHED;
  }

  /** 128-bit digest of a text as 32 hex digits. Overwrites the prompt in scratch. */
  readonly digest = (text: string): string => {
    const k = this.#kernel.exports;
    this.#standing = undefined;
    const bytes = this.#encoder.encode(text);
    k.digestStart();
    let at = 0;
    for (; bytes.length - at > this.#textBytes; at += this.#textBytes) {
      this.#text.set(bytes.subarray(at, at + this.#textBytes));
      k.digestAbsorb(this.#textBytes >> 4);
    }
    this.#text.set(bytes.subarray(at));
    const blocks = (bytes.length - at) >> 4;
    k.digestAbsorb(blocks);
    k.digestEnd(blocks << 4, (bytes.length - at) & 15, bytes.length);
    return this.#hashes[0].toString(16).padStart(16, "0") + this.#hashes[1].toString(16).padStart(16, "0");
  };

  /** Puts a prompt up for decision: hashes it and looks it up, when the policy cares. */
  begin(prompt: string | ScannedPrompt, placement: Placement): HashedPrompt {
    this.#exclude([]);
    const stands = prompt === this.#standing;
    this.#standing = undefined;
    if (typeof prompt === "string") return this.caches.keysOf(prompt, placement);
    return stands ? this.caches.keysOf(prompt.bytes, placement) : this.caches.keysOf(prompt.text(), placement);
  }

  /** Reads a chat's body without parsing it; undefined where it has to be parsed. `text` makes the prompt's text anew. */
  scan(
    bytes: Uint8Array,
    text: (request: InferenceRequest) => string,
  ): { request: InferenceRequest; prompt: ScannedPrompt } | undefined {
    this.#standing = undefined;
    const scanned = this.#scanner.scan(bytes);
    if (scanned === undefined) return undefined;
    const { request, promptBytes } = scanned;
    const prompt = this.#standing = new ScannedPrompt(promptBytes, () => text(request.whole));
    return { request, prompt };
  }

  /** Puts a prompt up again, without the endpoints in `tried`. */
  resume(prompt: HashedPrompt, placement: Placement, tried: readonly number[]): void {
    this.#exclude(tried);
    this.caches.match(prompt, placement);
  }

  /** Whether an engine of a cluster tells what it holds: else nothing comes of a prompt's tokens. */
  tells(cluster: number): boolean {
    return Boolean(this.#kernel.exports.blocksTold(cluster));
  }

  /** What the endpoint of a request that has waited holds of its prompt by now, if its engine tells it. */
  renew(row: RequestRow, prompt: HashedPrompt, placement: Placement): void {
    if (prompt.asked?.blocks === undefined) return;
    this.caches.match(prompt, placement);
    row.know(this.#kernel.exports.matchedBytes(row.endpoint));
  }

  #exclude(tried: readonly number[]): void {
    const k = this.#kernel.exports;
    const count = Math.min(tried.length, k.MAX_EXCLUDED);
    this.#words[this.#question.excluded] = count;
    for (let i = 0; i < count; i++) this.#words[this.#question.exclude + i] = tried[i];
  }

  /** The choice that follows is among these endpoint rows. */
  restrict(rows: readonly number[]): void {
    this.#allowed.fill(0);
    for (const row of rows) this.#allowed[row >>> 3] |= 1 << (row & 7);
    this.#words[this.#question.restricted] = 1;
  }

  /** Chooses for the prompt that is up: an endpoint row, or -1 when there is no candidate. */
  choose(placement: Placement, promptBytes: number, model: number, sharedMs: number): number {
    const { policy } = placement;
    const question = this.#question;
    const words = this.#words;
    const floats = this.#floats;
    words[question.cluster] = placement.cluster;
    words[question.eligibility] = placement.eligibility;
    words[question.adapter] = placement.adapter;
    words[question.policy] = policy.kernelPolicy;
    floats[question.percent] = policy.candidatePercent;
    floats[question.cacheWeight] = policy.cacheWeight;
    floats[question.requestWeight] = policy.requestWeight;
    floats[question.prefillWeight] = policy.prefillWeight;
    words[question.promptColumn] = policy.uncachedOnly ? this.#uncachedColumn : this.#promptColumn;
    floats[question.promptFloor] = policy.prefillFloorBytes;
    floats[question.adapterWeight] = policy.adapterWeight;
    words[question.promptBytes] = promptBytes;
    words[question.model] = model;
    this.#doubles[question.nowMs] = sharedMs;
    return this.#kernel.exports.choose();
  }

  /** Sets the objectives of the prompt that is up, in ms; 0 for none. */
  setObjectives(ttftMs: number, tpotMs: number): void {
    this.#floats[this.#question.ttftSlo] = ttftMs;
    this.#floats[this.#question.tpotSlo] = tpotMs;
  }

  /** Whether an endpoint keeps the objectives of the last choice by policy slo. */
  get objectivesMet(): boolean {
    return this.#words[this.#question.sloMet] > 0;
  }

  /**
   * Asks for an endpoint for the prompt that is up: the row of the one that was granted, NO_ENDPOINT, or QUEUED when the
   * request waits for a grant by whoever sees room appear.
   */
  arrive(
    row: RequestRow,
    { eligibility, adapter }: Placement,
    { band, tenant, deadlineMs }: FlowPriority,
    sharedMs: number,
  ): number {
    const question = this.#question;
    this.#words[question.eligibility] = eligibility;
    this.#words[question.adapter] = adapter;
    this.#words[question.band] = band;
    this.#words[question.tenant] = tenant;
    this.#doubles[question.deadlineMs] = deadlineMs;
    this.#doubles[question.nowMs] = sharedMs;
    return this.#kernel.exports.arrive(row.row, row.generation);
  }

  /**
   * Looks a waiting request up again: others may hold its prompt by now. Returns how many endpoints it could be granted, or
   * HOPELESS.
   */
  refresh(row: RequestRow, prompt: HashedPrompt, placement: Placement, sharedMs: number): number {
    this.resume(prompt, placement, []);
    return this.#kernel.exports.refresh(row.row, row.generation, sharedMs);
  }

  /** Grants waiting requests to an endpoint that may have room now; returns how many. */
  fill(cluster: number, endpoint: number, sharedMs: number): number {
    return this.#kernel.exports.fill(cluster, endpoint, sharedMs);
  }

  /** The same for all endpoints of a cluster. */
  fillAll(cluster: number, sharedMs: number): number {
    return this.#kernel.exports.fillAll(cluster, sharedMs);
  }

  /** What waits in a cluster's queue in a class of priority: requests, prompt bytes. */
  queueOf(cluster: number, itsClass: number): { requests: number; bytes: number } {
    const k = this.#kernel.exports;
    const at = (k.clusterOffset(cluster) + k.CLUSTER_CLASSES + k.CLASS_QUEUE_BYTES * itsClass) >>> 2;
    return { requests: Atomics.load(this.#words, at), bytes: Atomics.load(this.#words, at + 1) >>> 0 };
  }

  /** Requests of a tenant that wait. */
  waitingOf(tenant: number): number {
    const k = this.#kernel.exports;
    return Atomics.load(this.#words, (k.tenantOffset(tenant) + k.TENANT_WAITING) >>> 2);
  }

  /** Marks a request of a lower band than `lowest` that is before its first token, to be given up; false without one. */
  preempt(cluster: number, lowest: number): boolean {
    return this.#kernel.exports.preempt(cluster, lowest) >= 0;
  }

  /** How full the control plane found a cluster; 1 is full. */
  saturation(cluster: number): number {
    const k = this.#kernel.exports;
    return this.#floats[(k.clusterOffset(cluster) + k.CLUSTER_SATURATION) >>> 2];
  }

  /** Ms that what a tenant has waiting takes at the rate at which it was served lately. */
  backlogMs(cluster: number, tenant: number): number {
    return this.#kernel.exports.backlogMs(cluster, tenant);
  }

  /** Leading bytes of the prompt that the endpoint last chosen is presumed to hold. */
  get matchedBytes(): number {
    return this.#words[this.#question.matched];
  }

  /** Gives back the turn of a choice by which nothing is sent. */
  takesNoTurn({ policy, cluster }: Placement, chosen: number): void {
    if (policy.name !== "round_robin" || chosen === NO_ENDPOINT) return;
    const k = this.#kernel.exports;
    Atomics.sub(this.#words, (k.clusterOffset(cluster) + k.CLUSTER_TURN) >>> 2, 1);
  }

  /** Decides and tells how: every candidate with its load, cached bytes and score. */
  explain(
    text: string,
    placement: Placement,
    model: number,
    sharedMs: number,
    asked?: AskedBlocks,
  ): Explanation {
    const k = this.#kernel.exports;
    const prompt = this.begin(text, placement);
    if (asked?.blocks !== undefined) {
      prompt.asked = asked;
      this.caches.match(prompt, placement);
    }
    this.caches.retire(prompt);
    const chosen = this.choose(placement, prompt.bytes, model, sharedMs);
    this.takesNoTurn(placement, chosen);
    const candidates: Candidate[] = [];
    for (let position = 0; position < this.#words[this.#question.positions]; position++) {
      const requests = this.#floats[(k.queueOffset() >>> 2) + position];
      if (requests === Infinity) continue;
      const group = this.#words[(k.positionGroupOffset() >>> 2) + Math.floor(position / k.GROUP_ROWS)];
      const row = group * k.GROUP_ROWS + position % k.GROUP_ROWS;
      candidates.push({
        row,
        requests,
        // The last chunk of a prompt may be shorter than a chunk.
        cachedBytes: Math.min(prompt.bytes, k.matchedBytes(row) & (k.EXACT - 1)),
        cachedExactly: (k.matchedBytes(row) & k.EXACT) !== 0,
        score: this.#floats[(k.scoreOffset() >>> 2) + position],
        // There late binding keeps the scores of those with room.
        room: placement.policy.queued ? this.#floats[(k.promptOffset() >>> 2) + position] !== -Infinity : undefined,
      });
    }
    return {
      chosen,
      chunks: this.#words[this.#question.chunks],
      everywhereBytes: this.#words[this.#question.everywhere] & (k.EXACT - 1),
      sharedBytes: this.#words[this.#question.shared],
      candidates,
    };
  }
}
