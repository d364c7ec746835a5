// SPDX-License-Identifier: Apache-2.0
// The scheduler of one gateway. Its queue is the kernel's, in the shared memory, so it is one for all workers: whoever sees
// room appear grants it to whomever it suits. This worker keeps what its own waiting requests need: a promise, a deadline,
// and the hashes with which it looks again who holds their prompts.

import type { Clock } from "../base/clock.ts";
import type { Deadline, Deadlines } from "../base/deadlines.ts";
import { GatewayError } from "../base/errors.ts";
import type { EndpointTable } from "../tables/endpoint_table.ts";
import { RequestPhase, type RequestRow, type RequestTable } from "../tables/request_table.ts";
import { type DecisionMaker, type HashedPrompt, NO_ENDPOINT, QUEUED } from "./decision.ts";
import type { Placement } from "./placement.ts";
import { type Scheduler, Slot, type SlotOwner, type SlotParts, type SlotRequest } from "./scheduler.ts";

export interface QueueLimits {
  /** Requests, and prompt bytes, of a cluster that wait at once. */
  readonly requests: number;
  readonly bytes: number;
  readonly maxWaitMs: number;
  readonly refreshMs: number;
}

/** An endpoint that changes hands between choice and grant is chosen again this often. */
const MOST_CHOICES = 16;
/** Waiting requests that are looked up again in one go. */
const REFRESHED = 64;

/** A request of this worker that waits. */
class Waiting implements Deadline {
  place = -1;
  failed = false;
  readonly #done = Promise.withResolvers<void>();

  constructor(
    readonly row: RequestRow,
    readonly prompt: HashedPrompt,
    readonly placement: Placement,
    readonly since: number,
    public deadline: number,
    readonly timeout: () => GatewayError,
  ) {
    row.granted().then(() => this.#done.resolve());
  }

  /** Resolves with the grant. Rejects with what it failed with. */
  get done(): Promise<void> {
    return this.#done.promise;
  }

  fail(error: Error): void {
    this.failed = true;
    this.#done.reject(error);
  }

  /** Its time is up. */
  expire(): void {
    if (this.row.phase === RequestPhase.waiting) this.fail(this.timeout());
  }
}

export class LocalScheduler implements Scheduler, SlotOwner {
  readonly #waiting: Waiting[] = [];
  #refreshTimer: (() => void) | undefined;
  #refreshed = 0;

  constructor(
    readonly decisions: DecisionMaker,
    readonly requests: RequestTable,
    readonly endpoints: EndpointTable,
    readonly clock: Clock,
    readonly deadlines: Deadlines,
    readonly limits: QueueLimits,
  ) {}

  /** Requests of this worker that wait. */
  get waiting(): number {
    return this.#waiting.length;
  }

  now(): number {
    return this.clock.shared();
  }

  async acquire(request: SlotRequest): Promise<Slot> {
    const { placement, promptText, model, pinned, hidden } = request;
    const prompt = this.decisions.begin(promptText, placement);
    const row = this.requests.tryOpen(placement.cluster, model, prompt.bytes, this.clock.wall());
    if (!row) {
      this.decisions.retire(prompt);
      throw new GatewayError(
        "overloaded",
        `This gateway has ${this.requests.capacity} requests in flight in one worker, its limit`,
      );
    }
    const parts: SlotParts = { row, placement, prompt, model, hidden, pinned: pinned !== undefined, queuedMs: 0 };
    try {
      if (pinned !== undefined) {
        if (row.grant(pinned, 0)) return new Slot(this, parts);
        throw new GatewayError("no_endpoint", "The engine that holds the previous response is not available");
      }
      if (!placement.policy.queued) {
        this.decisions.setObjectives(placement.policy.ttftSloMs, placement.policy.tpotSloMs);
        if (this.#grant(row, placement, prompt, model)) return new Slot(this, parts);
        throw noEndpoint();
      }
      const result = this.decisions.arrive(row, placement, request.standing, this.now());
      if (result === NO_ENDPOINT) throw noEndpoint();
      if (result !== QUEUED) return new Slot(this, parts);
      return new Slot(this, { ...parts, queuedMs: await this.#wait(row, prompt, request) });
    } catch (error) {
      const { endpoint } = row;
      const carried = row.phase >= RequestPhase.granted;
      row.release();
      this.decisions.retire(prompt);
      if (carried) this.roomAt(placement.cluster, endpoint);
      throw error;
    }
  }

  // Resolves with the ms waited.
  async #wait(row: RequestRow, prompt: HashedPrompt, { placement, standing, hold }: SlotRequest): Promise<number> {
    const { cluster } = placement;
    const { requests, bytes, maxWaitMs } = this.limits;
    const backlog = () => this.decisions.backlogMs(cluster, standing.tenant);
    const queue = this.decisions.queueOf(cluster);
    if (queue.requests > requests || queue.bytes > bytes) {
      throw new GatewayError(
        "queue_full",
        `${
          queue.requests - 1
        } requests wait for an endpoint already, the limits are ${requests} requests and ${bytes} bytes`,
      ).after(backlog());
    }
    const since = this.clock.now();
    const timeout = () =>
      new GatewayError("queue_timeout", `No endpoint had room within ${maxWaitMs} ms`).after(backlog());
    const waiting = new Waiting(row, prompt, placement, since, since + maxWaitMs, timeout);
    this.#waiting.push(waiting);
    this.deadlines.watch(waiting);
    this.#refreshSoon();
    hold(waiting);
    try {
      await waiting.done;
      return this.clock.now() - since;
    } finally {
      this.#waiting.splice(this.#waiting.indexOf(waiting), 1);
      this.deadlines.unwatch(waiting);
    }
  }

  #refreshSoon(): void {
    if (this.#waiting.length > 0) this.#refreshTimer ??= this.clock.after(this.limits.refreshMs, () => this.#refresh());
  }

  // Who waits looks up again who holds its prompt; nobody waits for an idle endpoint, or for none.
  #refresh(): void {
    this.#refreshTimer = undefined;
    const count = Math.min(REFRESHED, this.#waiting.length);
    const clusters = new Set<number>();
    for (let i = 0; i < count; i++) {
      const waiting = this.#waiting[(this.#refreshed + i) % this.#waiting.length];
      clusters.add(waiting.placement.cluster);
      if (this.decisions.refresh(waiting.row, waiting.prompt, waiting.placement) === 0) waiting.fail(noEndpoint());
    }
    this.#refreshed += count;
    for (const cluster of clusters) this.decisions.fillAll(cluster, this.now());
    this.#refreshSoon();
  }

  /** Stops looking again; whoever still waits has been failed. */
  close(): void {
    this.#refreshTimer?.();
    this.#refreshTimer = undefined;
  }

  #grant(row: RequestRow, placement: Placement, prompt: HashedPrompt, model: number): boolean {
    for (let i = 0; i < MOST_CHOICES; i++) {
      const endpoint = this.decisions.choose(placement, prompt.bytes, model, this.now());
      if (endpoint < 0) return false;
      if (row.grant(endpoint, this.decisions.matchedChunks)) return true;
    }
    return false;
  }

  moveTo(
    row: RequestRow,
    placement: Placement,
    prompt: HashedPrompt,
    tried: readonly number[],
    model: number,
  ): boolean {
    this.decisions.resume(prompt, placement, tried);
    const endpoint = this.decisions.choose(placement, prompt.bytes, model, this.now());
    if (endpoint < 0) return false;
    row.returnToWaiting();
    return row.grant(endpoint, this.decisions.matchedChunks) || this.#grant(row, placement, prompt, model);
  }

  roomAt(cluster: number, endpoint: number): void {
    this.decisions.fill(cluster, endpoint, this.now());
  }

  remember(prompt: HashedPrompt, salt: number, endpoint: number, share: boolean): void {
    this.decisions.remember(prompt, salt, endpoint, share);
  }

  retire(prompt: HashedPrompt): void {
    this.decisions.retire(prompt);
  }

  countFailure(endpoint: number): void {
    this.endpoints.countFailure(endpoint);
  }

  clearFailures(endpoint: number): void {
    this.endpoints.clearFailures(endpoint);
  }

  requestsOn(endpoint: number): number {
    return this.endpoints.requests(endpoint);
  }
}

function noEndpoint(): GatewayError {
  return new GatewayError("no_endpoint", "No endpoint of the model is available");
}
