// SPDX-License-Identifier: Apache-2.0
// The scheduler gives a request a slot: an endpoint with the request's load counted on it. A slot is disposed of exactly
// once, at the true end of the request; whoever holds it last owns that end.

import type { HashedPrompt, Standing } from "./decision.ts";
import type { RequestRow } from "../tables/request_table.ts";
import type { Placement } from "./placement.ts";

export interface SlotRequest {
  readonly placement: Placement;
  readonly promptText: string;
  /** Model row. */
  readonly model: number;
  readonly standing: Standing & {
    /** Most requests of the tenant under way, and waiting; undefined for no such limit. */
    readonly concurrency?: number;
    readonly queued?: number;
  };
  /** Objectives in ms, 0 for none: for policy slo. */
  readonly objectives: { ttftMs: number; tpotMs: number };
  /** Gives the request up for one of higher priority, as long as its answer has not begun. */
  readonly preempt: () => void;
  /** Its first token will not be seen: the answer is not streamed. */
  readonly hidden: boolean;
  /** The one endpoint that will do, as it holds the state that the request continues. */
  readonly pinned?: number;
  /** Is told what to fail when the client leaves, or the request's time is up, before there is an endpoint. */
  hold(waiting: { fail(error: Error): void }): void;
}

/** Gives out slots: here at once when there is room and nobody waits, or from a queue, wherever that is. */
export interface Scheduler {
  /** Throws GatewayError: no_endpoint, overloaded, queue_full, queue_timeout, slo_unreachable; and what `hold` fails with. */
  acquire(request: SlotRequest): Promise<Slot>;
}

/** What a slot needs of the scheduler that gave it. */
export interface SlotOwner {
  now(): number;
  /** Moves a load to an endpoint that is not in `tried`; false when there is none. */
  moveTo(row: RequestRow, placement: Placement, prompt: HashedPrompt, tried: readonly number[], model: number): boolean;
  /** Work came off an endpoint: somebody who waits may have it. */
  roomAt(cluster: number, endpoint: number): void;
  /** Records that an endpoint has a prompt in use from now on; returns what `unpin` takes when it has not any more. */
  pin(prompt: HashedPrompt, salt: number, endpoint: number): number;
  unpin(prompt: HashedPrompt, pinned: number, salt: number, endpoint: number): void;
  retire(prompt: HashedPrompt): void;
  countFailure(endpoint: number): void;
  clearFailures(endpoint: number): void;
  requestsOn(endpoint: number): number;
}

export interface SlotParts {
  readonly row: RequestRow;
  readonly placement: Placement;
  readonly prompt: HashedPrompt;
  readonly model: number;
  readonly hidden: boolean;
  /** Whether no other endpoint will do. */
  readonly pinned: boolean;
  /** Ms that it waited. */
  readonly queuedMs: number;
}

/** A granted endpoint. `using slot = …` releases its load when the block ends, unless `keep` moved it on. */
export class Slot implements Disposable {
  readonly #owner: SlotOwner;
  readonly #parts: SlotParts;
  #tried: number[] | undefined;
  #held: boolean;
  /** What the pinned prompt is unpinned with. */
  #pinned: number | undefined;

  constructor(owner: SlotOwner, parts: SlotParts, before?: Slot) {
    this.#owner = owner;
    this.#parts = parts;
    this.#held = true;
    if (before) {
      this.#tried = before.#tried;
      this.#pinned = before.#pinned;
    } else if (parts.placement.policy.queued) this.remember(); // for those who wait and share its prefix
  }

  get prompt(): HashedPrompt {
    return this.#parts.prompt;
  }

  get queuedMs(): number {
    return this.#parts.queuedMs;
  }

  get model(): number {
    return this.#parts.model;
  }

  /** Row of the endpoint. */
  get endpoint(): number {
    return this.#parts.row.endpoint;
  }

  /** Chunks of the prompt that the endpoint was presumed to hold when it was chosen. */
  get matchedBytes(): number {
    return this.#parts.row.cachedBytes;
  }

  /** Requests on its endpoint, this one included. */
  get batch(): number {
    return this.#owner.requestsOn(this.endpoint);
  }

  /** Marks the request as sent; returns the identity generation of the endpoint. */
  dispatch(): number {
    return this.#parts.row.dispatch(this.#owner.now(), this.#parts.hidden);
  }

  /** Predicted ms from now to the first token. */
  predictMs(): number {
    return this.#parts.row.predictMs(this.#owner.now());
  }

  /** The first token was seen, or is presumed: the prompt's load comes off. Returns the ms of the prefill the first time, then -1. */
  firstToken(): number {
    const { row, placement } = this.#parts;
    if (!this.#held) return -1;
    const ms = row.firstToken(this.#owner.now());
    if (ms >= 0) this.#owner.roomAt(placement.cluster, row.endpoint);
    return ms;
  }

  /** The endpoint holds the prompt from now on: it answered 200, or is about to compute it. */
  remember(): void {
    this.#pinned ??= this.#owner.pin(this.prompt, this.#parts.placement.salt, this.endpoint);
  }

  #unpin(endpoint: number): void {
    if (this.#pinned === undefined) return;
    this.#owner.unpin(this.prompt, this.#pinned, this.#parts.placement.salt, endpoint);
    this.#pinned = undefined;
  }

  /** The endpoint failed at this request. */
  failed(): void {
    this.#owner.countFailure(this.endpoint);
  }

  /** The endpoint's answer came to a good end. */
  succeeded(): void {
    this.#owner.clearFailures(this.endpoint);
  }

  /** Gives the endpoint up for another that was not tried yet; false when there is none. */
  tryAnother(): boolean {
    const { pinned, row, placement, prompt, model } = this.#parts;
    if (pinned || !this.#held) return false;
    const before = this.endpoint;
    const tried = this.#tried ??= [];
    tried.push(before);
    if (!this.#owner.moveTo(row, placement, prompt, tried, model)) return false;
    this.#owner.roomAt(placement.cluster, before);
    this.#unpin(before);
    if (placement.policy.queued) this.remember();
    return true;
  }

  /** Hands the load over to a new slot, which outlives the block of this one. */
  keep(): Slot {
    this.#held = false;
    return new Slot(this.#owner, this.#parts, this);
  }

  [Symbol.dispose](): void {
    if (!this.#held) return;
    this.#held = false;
    const { row, placement, prompt } = this.#parts;
    const { endpoint } = row;
    this.#unpin(endpoint);
    row.release();
    this.#owner.retire(prompt);
    this.#owner.roomAt(placement.cluster, endpoint);
  }
}
