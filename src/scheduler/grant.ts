// SPDX-License-Identifier: Apache-2.0
// A grant of this gateway's own queue: one leg, whose load is a row of the shared memory.

import type { EndpointRef } from "../tables/endpoint_directory.ts";
import type { RequestRow } from "../tables/request_table.ts";
import type { HashedPrompt } from "./cache_knowledge.ts";
import type { Placement } from "./placement.ts";
import type { Grant, Leg } from "./scheduler.ts";

/** What a grant needs of the scheduler that gave it. */
export interface GrantOwner {
  now(): number;
  endpointOf(row: number): EndpointRef;
  /** Moves a load to an endpoint that is not in `tried`; false when there is none. */
  moveTo(parts: GrantParts, tried: readonly number[]): boolean;
  /** A grant of the same request at another endpoint; undefined when there is none. */
  twin(parts: GrantParts): Grant | undefined;
  /** The endpoints that would be chosen next. */
  others(parts: GrantParts, count: number): readonly EndpointRef[];
  /** Moves a load to the endpoint of this name; false when there is none, and it stays. */
  moveToNamed(parts: GrantParts, name: string): boolean;
  /** Work came off an endpoint: somebody who waits may have it. */
  roomAt(cluster: number, endpoint: number): void;
  /** Records that an endpoint has a prompt in use from now on; returns what `unpin` takes when it has not any more. */
  pin(prompt: HashedPrompt, salt: number, endpoint: number): number;
  unpin(prompt: HashedPrompt, pinned: number, salt: number, endpoint: number): void;
  retire(prompt: HashedPrompt): void;
  /** Something came from it. */
  heard(endpoint: number): void;
  countFailure(endpoint: number): void;
  clearFailures(endpoint: number): void;
  requestsOn(endpoint: number): number;
}

export interface GrantParts {
  readonly row: RequestRow;
  readonly placement: Placement;
  readonly prompt: HashedPrompt;
  readonly model: number;
  readonly hidden: boolean;
  /** Whether no other endpoint will do. */
  readonly only: boolean;
  /** The endpoint rows that will do; undefined for all. */
  readonly among: readonly number[] | undefined;
  /** Ms that it waited. */
  readonly queuedMs: number;
  /** Ms that the look at who holds its prompt, and that at the loads, took. */
  readonly lookUpMs: number;
  readonly decideMs: number;
}

export class QueueGrant implements Grant {
  readonly leg: WholeLeg;
  readonly #owner: GrantOwner;
  readonly #parts: GrantParts;
  #tried: number[] | undefined;

  constructor(owner: GrantOwner, parts: GrantParts, before?: QueueGrant) {
    this.#owner = owner;
    this.#parts = parts;
    this.leg = new WholeLeg(owner, parts, before?.leg);
    if (before) this.#tried = before.#tried;
    else if (parts.placement.policy.queued) this.leg.remember(); // for those who wait and share its prefix
  }

  get legs(): readonly Leg[] {
    return [this.leg];
  }

  get prompt(): HashedPrompt {
    return this.#parts.prompt;
  }

  get queuedMs(): number {
    return this.#parts.queuedMs;
  }

  get lookUpMs(): number {
    return this.#parts.lookUpMs;
  }

  get decideMs(): number {
    return this.#parts.decideMs;
  }

  get loadName(): string {
    return this.#parts.row.loadName;
  }

  get predictedMs(): number {
    return this.#parts.row.predictMs(this.#owner.now());
  }

  tryAnother(): boolean {
    const { only, row, placement } = this.#parts;
    if (only || !this.leg.own) return false;
    const before = row.endpoint;
    const tried = this.#tried ??= [];
    tried.push(before);
    if (!this.#owner.moveTo(this.#parts, tried)) return false;
    this.#owner.roomAt(placement.cluster, before);
    this.leg.moved(before);
    return true;
  }

  twin(): Grant | undefined {
    return this.#parts.only || !this.leg.own ? undefined : this.#owner.twin(this.#parts);
  }

  others(count: number): readonly EndpointRef[] {
    return this.#parts.only || count === 0 ? [] : this.#owner.others(this.#parts, count);
  }

  servedBy(name: string): boolean {
    if (!this.leg.own || this.leg.endpoint.host === name) return false;
    const { row, placement } = this.#parts;
    const before = row.endpoint;
    if (!this.#owner.moveToNamed(this.#parts, name)) return false;
    this.#owner.roomAt(placement.cluster, before);
    this.leg.moved(before);
    this.leg.sent();
    return true;
  }

  keep(): Grant {
    this.leg.own = false;
    return new QueueGrant(this.#owner, this.#parts, this);
  }

  [Symbol.dispose](): void {
    if (!this.leg.own) return;
    this.leg.own = false;
    const { row, placement, prompt } = this.#parts;
    const { endpoint } = row;
    this.leg.unpin(endpoint);
    row.release();
    this.#owner.retire(prompt);
    this.#owner.roomAt(placement.cluster, endpoint);
  }
}

class WholeLeg implements Leg {
  readonly role = "whole";
  /** Whether the load is this grant's to release. */
  own = true;
  readonly #owner: GrantOwner;
  readonly #parts: GrantParts;
  #endpoint: EndpointRef | undefined;
  /** What the pinned prompt is unpinned with. */
  #pinned: number | undefined;

  constructor(owner: GrantOwner, parts: GrantParts, before?: WholeLeg) {
    this.#owner = owner;
    this.#parts = parts;
    if (before === undefined) return;
    this.#endpoint = before.#endpoint;
    this.#pinned = before.#pinned;
  }

  get endpoint(): EndpointRef {
    return this.#endpoint ??= this.#owner.endpointOf(this.#parts.row.endpoint);
  }

  get matchedBytes(): number {
    return this.#parts.row.cachedBytes;
  }

  get matchedExactly(): boolean {
    return this.#parts.row.cachedExactly;
  }

  get batch(): number {
    return this.#owner.requestsOn(this.#parts.row.endpoint);
  }

  sent(): void {
    this.#parts.row.dispatch(this.#owner.now(), this.#parts.hidden);
  }

  firstToken(): number {
    const { row, placement } = this.#parts;
    if (!this.own) return -1;
    const ms = row.firstToken(this.#owner.now());
    if (ms >= 0) this.#owner.roomAt(placement.cluster, row.endpoint);
    return ms;
  }

  heard(): void {
    this.#owner.heard(this.#parts.row.endpoint);
  }

  remember(): void {
    const { prompt, placement, row } = this.#parts;
    this.#pinned ??= this.#owner.pin(prompt, placement.salt, row.endpoint);
  }

  /** The load went from an endpoint to another one. */
  moved(before: number): void {
    this.unpin(before);
    this.#endpoint = undefined;
    if (this.#parts.placement.policy.queued) this.remember();
  }

  unpin(endpoint: number): void {
    if (this.#pinned === undefined) return;
    this.#owner.unpin(this.#parts.prompt, this.#pinned, this.#parts.placement.salt, endpoint);
    this.#pinned = undefined;
  }

  failed(): void {
    this.#owner.countFailure(this.#parts.row.endpoint);
  }

  succeeded(): void {
    this.#owner.clearFailures(this.#parts.row.endpoint);
  }
}
