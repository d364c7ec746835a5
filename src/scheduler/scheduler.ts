// SPDX-License-Identifier: Apache-2.0
// The scheduler gives a request a slot: an endpoint with the request's load counted on it. A slot is disposed of exactly
// once, at the true end of the request; whoever holds it last owns that end.

import { GatewayError } from "../base/errors.ts";
import type { EndpointTable } from "../tables/endpoint_table.ts";
import type { RequestRow, RequestTable } from "../tables/request_table.ts";
import type { DecisionMaker, HashedPrompt } from "./decision.ts";
import type { Placement } from "./placement.ts";

export interface SlotRequest {
  readonly placement: Placement;
  readonly promptText: string;
  /** Model row, for the books. */
  readonly model: number;
  readonly wallMs: number;
  /** The one endpoint that will do, as it holds the state that the request continues. */
  readonly pinned?: number;
}

/** Gives out slots. A queue behind `acquire` may let a request wait; this one grants at once. */
export interface Scheduler {
  /** Throws GatewayError: no_endpoint, overloaded. */
  acquire(request: SlotRequest): Promise<Slot>;
}

/** An endpoint that changes hands between choice and grant is chosen again this often. */
const MOST_CHOICES = 16;

export class LocalScheduler implements Scheduler {
  constructor(
    readonly decisions: DecisionMaker,
    readonly requests: RequestTable,
    readonly endpoints: EndpointTable,
  ) {}

  // deno-lint-ignore require-await -- the interface allows waiting; here everyone is served at once
  async acquire({ placement, promptText, model, wallMs, pinned }: SlotRequest): Promise<Slot> {
    const prompt = this.decisions.begin(promptText, placement);
    const row = this.requests.tryOpen(placement.cluster, model, prompt.bytes, wallMs);
    if (!row) {
      this.decisions.retire(prompt);
      throw new GatewayError(
        "overloaded",
        `This gateway has ${this.requests.capacity} requests in flight in one worker, its limit`,
      );
    }
    const granted = pinned === undefined ? this.#grant(row, placement, prompt) : row.grant(pinned, 0);
    if (granted) return new Slot(this, row, placement, prompt, pinned !== undefined);
    row.release();
    this.decisions.retire(prompt);
    if (pinned !== undefined) {
      throw new GatewayError("no_endpoint", "The engine that holds the previous response is not available");
    }
    throw new GatewayError("no_endpoint", "No endpoint of the model is available");
  }

  #grant(row: RequestRow, placement: Placement, prompt: HashedPrompt): boolean {
    for (let i = 0; i < MOST_CHOICES; i++) {
      const endpoint = this.decisions.choose(placement, prompt.bytes);
      if (endpoint < 0) return false;
      if (row.grant(endpoint, this.decisions.matchedChunks)) return true;
    }
    return false;
  }

  /** Moves a slot's load to an endpoint that is not in `tried`; false when there is none. */
  moveTo(row: RequestRow, placement: Placement, prompt: HashedPrompt, tried: readonly number[]): boolean {
    this.decisions.resume(prompt, placement, tried);
    const endpoint = this.decisions.choose(placement, prompt.bytes);
    if (endpoint < 0) return false;
    row.returnToWaiting();
    return row.grant(endpoint, this.decisions.matchedChunks) || this.#grant(row, placement, prompt);
  }
}

/** A granted endpoint. `using slot = …` releases its load when the block ends, unless `keep` moved it on. */
export class Slot implements Disposable {
  readonly #scheduler: LocalScheduler;
  #tried: number[] | undefined;
  #row: RequestRow | undefined;
  #endpoint: number;
  #matched: number;

  constructor(
    scheduler: LocalScheduler,
    row: RequestRow,
    readonly placement: Placement,
    readonly prompt: HashedPrompt,
    /** Whether no other endpoint will do. */
    readonly pinned = false,
  ) {
    this.#scheduler = scheduler;
    this.#row = row;
    this.#endpoint = row.endpoint;
    this.#matched = scheduler.decisions.matchedChunks;
  }

  /** Row of the endpoint. */
  get endpoint(): number {
    return this.#endpoint;
  }

  /** Chunks of the prompt that the endpoint was presumed to hold when it was chosen. */
  get matchedChunks(): number {
    return this.#matched;
  }

  /** Marks the request as sent; returns the identity generation of the endpoint. */
  dispatch(): number {
    return this.#row!.dispatch();
  }

  /** The first token was seen, or is presumed: the prompt's load comes off. May be called again. */
  firstToken(): void {
    this.#row?.firstToken();
  }

  /** The engine answered 200: it holds the prompt from now on. */
  remember(): void {
    this.#scheduler.decisions.remember(this.prompt, this.placement.salt, this.#endpoint);
  }

  /** The endpoint failed at this request. */
  failed(): void {
    this.#scheduler.endpoints.countFailure(this.#endpoint);
  }

  /** The endpoint's answer came to a good end. */
  succeeded(): void {
    this.#scheduler.endpoints.clearFailures(this.#endpoint);
  }

  /** Gives the endpoint up for another that was not tried yet; false when there is none. */
  tryAnother(): boolean {
    if (this.pinned) return false;
    const tried = this.#tried ??= [];
    tried.push(this.#endpoint);
    if (!this.#row || !this.#scheduler.moveTo(this.#row, this.placement, this.prompt, tried)) return false;
    this.#endpoint = this.#row.endpoint;
    this.#matched = this.#scheduler.decisions.matchedChunks;
    return true;
  }

  /** Hands the load over to a new slot, which outlives the block of this one. */
  keep(): Slot {
    const row = this.#row!;
    const kept = new Slot(this.#scheduler, row, this.placement, this.prompt, this.pinned);
    kept.#matched = this.#matched;
    kept.#tried = this.#tried;
    this.#row = undefined;
    return kept;
  }

  [Symbol.dispose](): void {
    if (!this.#row) return;
    this.#row.release();
    this.#row = undefined;
    this.#scheduler.decisions.retire(this.prompt);
  }
}
