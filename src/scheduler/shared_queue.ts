// SPDX-License-Identifier: Apache-2.0
// The scheduler of one gateway. Its queue is the kernel's, in the shared memory, so it is one for all workers: whoever sees
// room appear grants it to whomever it suits. This worker keeps what its own waiting requests need: a promise, a deadline,
// and the hashes with which it looks again who holds their prompts.

import type { Clock } from "../base/clock.ts";
import type { Deadline, Deadlines } from "../base/deadlines.ts";
import { GatewayError } from "../base/errors.ts";
import type { GrantWatch } from "../tables/grant_watch.ts";
import { EndpointDirectory, type EndpointRef } from "../tables/endpoint_directory.ts";
import type { EndpointPulse } from "../tables/endpoint_pulse.ts";
import type { EndpointTable } from "../tables/endpoint_table.ts";
import { RequestPhase, type RequestRow, type RequestTable } from "../tables/request_table.ts";
import type { HashedPrompt } from "./cache_knowledge.ts";
import { type DecisionMaker, HOPELESS, NO_ENDPOINT, QUEUED } from "./decision.ts";
import { MAX_PRIORITY, PRIORITIES } from "../config/tenants.ts";
import { type GrantOwner, type GrantParts, QueueGrant } from "./grant.ts";
import { awaitBlocks } from "./known_blocks.ts";
import type { Placement } from "./placement.ts";
import { hopeless, noEndpoint } from "./refusals.ts";
import type { Ask, Grant, OnCancel, Scheduler } from "./scheduler.ts";

/** The last bands of critical and of standard priority. */
const LAST_CRITICAL = MAX_PRIORITY - PRIORITIES.critical;
const LAST_STANDARD = MAX_PRIORITY - PRIORITIES.standard;

/** An endpoint that changes hands between choice and grant is chosen again this often. */
const MAX_CHOICES = 16;
/** WaitingRequest requests that are looked up again in one go. */
const REFRESHED = 64;

/** What an endpoint is chosen for. */
type Choice = Pick<GrantParts, "row" | "placement" | "prompt" | "model" | "among">;

interface WaitingParts {
  readonly row: RequestRow;
  readonly prompt: HashedPrompt;
  readonly placement: Placement;
  readonly deadline: number;
  /** When its first token is due, shared ms; 0 for no such time. */
  readonly due: number;
  timeout(): GatewayError;
}

/** A request of this worker that waits. */
class WaitingRequest implements Deadline {
  readonly row: RequestRow;
  deadline: number;
  place = -1;
  readonly #done = Promise.withResolvers<void>();

  constructor(readonly parts: WaitingParts) {
    this.row = parts.row;
    this.deadline = parts.deadline;
  }

  /** Resolves with the grant. Rejects with what it failed with. */
  get done(): Promise<void> {
    return this.#done.promise;
  }

  readonly resolve = (): void => {
    this.#done.resolve();
  };

  readonly fail = (error: Error): void => {
    this.#done.reject(error);
  };

  /** Its time is up. */
  expire(): void {
    if (this.row.phase === RequestPhase.waiting) this.fail(this.parts.timeout());
  }
}

export interface SharedQueueParts {
  readonly decisions: DecisionMaker;
  readonly requests: RequestTable;
  readonly endpoints: EndpointTable;
  readonly pulse: EndpointPulse;
  readonly clock: Clock;
  readonly deadlines: Deadlines;
  readonly grants: GrantWatch;
}

export class SharedQueue implements Scheduler, GrantOwner {
  readonly decisions: DecisionMaker;
  readonly requests: RequestTable;
  readonly endpoints: EndpointTable;
  readonly pulse: EndpointPulse;
  readonly clock: Clock;
  readonly deadlines: Deadlines;
  readonly grants: GrantWatch;
  readonly #waiting: WaitingRequest[] = [];
  /** Batch requests that were sent, and how they are given up. */
  readonly #preemptible = new Map<RequestRow, () => void>();
  readonly #directory: EndpointDirectory;
  #refreshTimer: (() => void) | undefined;
  #refreshed = 0;
  #watching = false;
  #closed = false;

  constructor(parts: SharedQueueParts) {
    this.decisions = parts.decisions;
    this.requests = parts.requests;
    this.endpoints = parts.endpoints;
    this.pulse = parts.pulse;
    this.clock = parts.clock;
    this.deadlines = parts.deadlines;
    this.grants = parts.grants;
    this.#directory = new EndpointDirectory(parts.endpoints);
  }

  /** Requests of this worker that wait. */
  get waiting(): number {
    return this.#waiting.length;
  }

  now(): number {
    return this.clock.shared();
  }

  endpointOf(row: number): EndpointRef {
    return this.#directory.of(row);
  }

  async acquire(ask: Ask, onCancel: OnCancel): Promise<Grant> {
    const { placement, model, onlyEndpoint, hidden } = ask;
    const began = this.clock.now();
    const prompt = this.decisions.begin(ask.prompt, placement);
    if (ask.blocks !== undefined) {
      await awaitBlocks(prompt, ask.blocks, this.clock);
      this.decisions.resume(prompt, placement, []); // others have been up meanwhile
    }
    const found = this.clock.now();
    const row = this.requests.tryOpen(placement.cluster, model, prompt.bytes);
    if (!row) {
      this.decisions.caches.retire(prompt);
      throw new GatewayError(
        "overloaded",
        `This gateway has ${this.requests.capacity} requests in flight in one worker, its limit`,
      );
    }
    const only = onlyEndpoint !== undefined;
    const among = ask.among && this.#directory.named(placement.cluster, ask.among);
    const fixed = { row, placement, prompt, model, hidden, only, among, lookUpMs: found - began };
    const granted = (queuedMs = 0) =>
      new QueueGrant(this, { ...fixed, queuedMs, decideMs: this.clock.now() - found - queuedMs });
    const { flow, objectives } = ask;
    row.assign(flow.tenant, ask.reserved);
    try {
      if (flow.concurrency !== undefined && !row.admit(flow.tenant, flow.concurrency)) {
        throw new GatewayError(
          "tenant_concurrency",
          `The tenant has ${flow.concurrency} requests under way already, its limit`,
        );
      }
      if (onlyEndpoint !== undefined) {
        const may = among === undefined || among.includes(onlyEndpoint);
        if (may && row.grant(onlyEndpoint, 0, this.now())) return granted();
        throw new GatewayError("no_endpoint", "The engine that has the previous response is not available");
      }
      if (!placement.policy.queued || among !== undefined) {
        this.decisions.setObjectives(objectives.ttftMs, objectives.tpotMs);
        if (!this.#grant(fixed)) throw noEndpoint();
        if (placement.policy.name === "slo" && flow.deadlineMs > 0 && !this.decisions.objectivesMet) {
          throw hopeless();
        }
        return granted();
      }
      const result = this.decisions.arrive(row, placement, flow, this.now());
      if (result === NO_ENDPOINT) throw noEndpoint();
      if (result === HOPELESS) throw hopeless().after(this.decisions.backlogMs(placement.cluster, flow.tenant));
      const queuedMs = result === QUEUED ? await this.#wait(row, prompt, ask, onCancel) : 0;
      if (result === QUEUED) this.decisions.renew(row, prompt, placement);
      if (ask.queue.preempt && flow.band > LAST_STANDARD) this.#watchPreemption(row, ask);
      return granted(queuedMs);
    } catch (error) {
      const { endpoint } = row;
      const carried = row.phase >= RequestPhase.granted;
      row.release();
      this.decisions.caches.retire(prompt);
      if (carried) this.roomAt(placement.cluster, endpoint);
      throw error;
    }
  }

  // Resolves with the ms waited.
  async #wait(row: RequestRow, prompt: HashedPrompt, ask: Ask, onCancel: OnCancel): Promise<number> {
    const { placement, flow, queue: limits } = ask;
    const { cluster } = placement;
    const itsClass = flow.band <= LAST_CRITICAL ? 0 : flow.band <= LAST_STANDARD ? 1 : 2;
    const { requests, bytes, maxWaitMs } = limits.classes[itsClass];
    const backlog = () => this.decisions.backlogMs(cluster, flow.tenant);
    const queue = this.decisions.queueOf(cluster, itsClass);
    if (flow.queued !== undefined && this.decisions.waitingOf(flow.tenant) > flow.queued) {
      throw new GatewayError("queue_full", `${flow.queued} requests of the tenant wait already, its limit`)
        .after(backlog());
    }
    if (queue.requests > requests || queue.bytes > bytes) {
      throw new GatewayError(
        "queue_full",
        `${
          queue.requests - 1
        } requests wait for an endpoint already, the limits are ${requests} requests and ${bytes} bytes`,
      ).after(backlog());
    }
    const since = this.clock.now();
    const waiting = new WaitingRequest({
      row,
      prompt,
      placement,
      deadline: since + maxWaitMs,
      due: flow.deadlineMs,
      timeout: () => new GatewayError("queue_timeout", `No endpoint had room within ${maxWaitMs} ms`).after(backlog()),
    });
    if (limits.preempt && itsClass === 0) this.decisions.preempt(cluster, LAST_STANDARD + 1);
    this.#waiting.push(waiting);
    if (!this.#watching) this.#watchGrants();
    this.deadlines.watch(waiting);
    this.#refreshSoon(limits.refreshMs);
    onCancel(waiting);
    try {
      await waiting.done;
      return this.clock.now() - since;
    } finally {
      this.#waiting.splice(this.#waiting.indexOf(waiting), 1);
      this.deadlines.unwatch(waiting);
    }
  }

  // For the life of the worker: it waits on one word, whether any of its requests do or not.
  async #watchGrants(): Promise<void> {
    this.#watching = true;
    while (!this.#closed) {
      const { count } = this.grants;
      this.#lookForGrants();
      await this.grants.changed(count);
    }
  }

  // Sent in the order in which they were granted, which is not that in which they came.
  #lookForGrants(): void {
    if (this.#waiting.length === 0) return;
    const granted = this.#waiting.filter(({ row }) => row.granted);
    if (granted.length > 1) granted.sort((a, b) => (a.row.grantNumber - b.row.grantNumber) | 0);
    for (const { resolve } of granted) resolve();
  }

  #watchPreemption(row: RequestRow, { preempt, queue }: Ask): void {
    this.#preemptible.set(row, preempt);
    this.#refreshSoon(queue.refreshMs);
  }

  // A request that another worker marked is given up by its owner.
  #lookForPreempted(): void {
    for (const [row, giveUp] of this.#preemptible) {
      if (!row.over && row.phase === RequestPhase.prefilling && !row.preempted) continue;
      if (!row.over && row.phase === RequestPhase.granted) continue;
      this.#preemptible.delete(row);
      if (!row.over && row.preempted) giveUp();
    }
  }

  #refreshSoon(ms: number): void {
    if (this.#waiting.length + this.#preemptible.size > 0) {
      this.#refreshTimer ??= this.clock.after(ms, () => this.#refresh(ms));
    }
  }

  // Who waits looks up again who holds its prompt; nobody waits for an idle endpoint, or for none.
  #refresh(ms: number): void {
    this.#refreshTimer = undefined;
    const count = Math.min(REFRESHED, this.#waiting.length);
    const clusters = new Set<number>();
    for (let i = 0; i < count; i++) {
      const waiting = this.#waiting[(this.#refreshed + i) % this.#waiting.length];
      const { row, prompt, placement } = waiting.parts;
      clusters.add(placement.cluster);
      const found = this.decisions.refresh(row, prompt, placement, this.now());
      if (found === 0) waiting.fail(noEndpoint());
      else if (found === HOPELESS) waiting.fail(hopeless());
    }
    this.#refreshed += count;
    for (const cluster of clusters) this.decisions.fillAll(cluster, this.now());
    // Of all workers: should a word from another one be lost, nobody waits longer than until here.
    this.#lookForGrants();
    const now = this.now();
    for (const { parts: { due }, fail, row } of this.#waiting) {
      if (due > 0 && due < now && row.phase === RequestPhase.waiting) fail(hopeless());
    }
    this.#lookForPreempted();
    this.#refreshSoon(ms);
  }

  /** Stops looking again; whoever still waits has been failed. */
  close(): void {
    this.#closed = true;
    this.grants.wake();
    this.#refreshTimer?.();
    this.#refreshTimer = undefined;
  }

  #grant(parts: Choice): boolean {
    const { row } = parts;
    for (let i = 0; i < MAX_CHOICES; i++) {
      const endpoint = this.#choose(parts);
      if (endpoint < 0) return false;
      if (row.grant(endpoint, this.decisions.matchedBytes, this.now())) return true;
    }
    return false;
  }

  #choose({ placement, prompt, model, among }: Choice): number {
    if (among !== undefined) this.decisions.restrict(among);
    return this.decisions.choose(placement, prompt.bytes, model, this.now());
  }

  moveTo(parts: GrantParts, tried: readonly number[]): boolean {
    const { row, placement, prompt } = parts;
    this.decisions.resume(prompt, placement, tried);
    const endpoint = this.#choose(parts);
    if (endpoint < 0) return false;
    row.returnToWaiting();
    return row.grant(endpoint, this.decisions.matchedBytes, this.now()) || this.#grant(parts);
  }

  others(parts: GrantParts, count: number): readonly EndpointRef[] {
    const { row, placement, prompt } = parts;
    const others: EndpointRef[] = [];
    for (const tried = [row.endpoint]; others.length < count;) {
      this.decisions.resume(prompt, placement, tried);
      const endpoint = this.#choose(parts);
      this.decisions.takesNoTurn(placement, endpoint);
      if (endpoint < 0) break;
      others.push(this.endpointOf(endpoint));
      tried.push(endpoint);
    }
    return others;
  }

  moveToNamed({ row, placement, hidden }: GrantParts, name: string): boolean {
    const [endpoint] = this.#directory.named(placement.cluster, [name]);
    if (endpoint === undefined) return false;
    const before = row.endpoint;
    row.returnToWaiting();
    if (row.grant(endpoint, 0, this.now())) return true;
    if (row.grant(before, 0, this.now())) row.dispatch(this.now(), hidden);
    return false;
  }

  twin(parts: GrantParts): Grant | undefined {
    const { placement, model, row: first } = parts;
    const row = this.requests.tryOpen(placement.cluster, model, parts.prompt.bytes);
    if (!row) return undefined;
    // Keys of its own: each grant gives its keys back.
    const prompt = { ...parts.prompt, hashes: parts.prompt.hashes.slice() };
    this.decisions.resume(prompt, placement, [first.endpoint]);
    if (this.#grant({ ...parts, row, prompt })) return new QueueGrant(this, { ...parts, row, prompt, queuedMs: 0 });
    row.release();
    this.decisions.caches.retire(prompt);
    return undefined;
  }

  roomAt(cluster: number, endpoint: number): void {
    if (this.decisions.fill(cluster, endpoint, this.now()) > 0) this.#lookForGrants();
  }

  pin(prompt: HashedPrompt, salt: number, endpoint: number): number {
    return this.decisions.caches.pin(prompt, salt, endpoint);
  }

  unpin(prompt: HashedPrompt, pinned: number, salt: number, endpoint: number): void {
    this.decisions.caches.unpin(prompt, pinned, salt, endpoint);
  }

  retire(prompt: HashedPrompt): void {
    this.decisions.caches.retire(prompt);
  }

  heard(endpoint: number): void {
    this.pulse.hear(endpoint, this.now());
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
