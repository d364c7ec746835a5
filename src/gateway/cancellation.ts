// SPDX-License-Identifier: Apache-2.0
// Everything that can end a request from outside: its client leaves, its time is up, the gateway shuts down, a request of
// higher priority takes its place. Whatever it waits for at that moment fails with the reason.

import type { Deadline, Deadlines } from "../base/deadlines.ts";
import { GatewayError } from "../base/errors.ts";
import { UpstreamError } from "../upstream/errors.ts";

/** What a request waits for: a body, a connection, an engine's answer. */
export interface Waiting {
  fail(error: UpstreamError): void;
}

export class Cancellation implements Deadline {
  deadline: number;
  place = -1;
  #waiting: Waiting | undefined;
  #also: Waiting | undefined;
  #late: ((error: GatewayError | undefined) => void) | undefined;
  /** Why nothing more may be begun. */
  #gone: UpstreamError | undefined;
  #over = false;
  #answering = false;

  /** @param lifeMs How long the request may take from `started`, in the deadlines' clock. */
  constructor(readonly deadlines: Deadlines, readonly started: number, readonly lifeMs: number) {
    this.deadline = started + lifeMs;
    deadlines.watch(this);
  }

  /** Gives the step under way a time of its own, up to `unlimit`; `late` is told what is over, the step's or the request's. */
  limit(ms: number, late: (error: GatewayError | undefined) => void): void {
    this.#late = late;
    this.deadline = Math.min(this.deadline, this.deadlines.clock.now() + ms);
  }

  unlimit(): void {
    this.#late = undefined;
    this.deadline = this.started + this.lifeMs;
  }

  /** The time of a step, or of the request, is up. */
  expire(): void {
    const over = this.deadline >= this.started + this.lifeMs;
    const message = `The request was not answered within its ${this.lifeMs} ms`;
    if (this.#late) this.#late(over ? new GatewayError("deadline_exceeded", message) : undefined);
    else this.#give(new UpstreamError("deadline", message));
  }

  /** Its answer has begun: it makes room for nobody any more. */
  answering(): void {
    this.#answering = true;
  }

  /** It is to make room for a request of higher priority, unless its answer has begun. */
  readonly preempt = (): void => {
    if (!this.#answering) this.#give(new UpstreamError("preempted", "a request of higher priority"));
  };

  /** The client left. */
  readonly leave = (): void => this.#give(new UpstreamError("aborted", "the client left"));

  /** What the request waits for fails; the request goes on. */
  interrupt(error: UpstreamError): void {
    this.#waiting?.fail(error);
  }

  /** The gateway shuts down: the request ends with an error of its own. */
  cut(): void {
    this.#give(new UpstreamError("draining", "the gateway shuts down"));
  }

  #give(error: UpstreamError): void {
    if (this.#over) return;
    this.#gone ??= error;
    this.#waiting?.fail(error);
    this.#also?.fail(error);
  }

  /** What else fails with the request: a second attempt. */
  also(waiting: Waiting): void {
    this.#also = waiting;
    if (this.#gone) waiting.fail(this.#gone);
  }

  notAlso(waiting: Waiting): void {
    if (this.#also === waiting) this.#also = undefined;
  }

  /** Whether the client left, its time is up, or the gateway shuts down. */
  get gone(): boolean {
    return this.#gone !== undefined;
  }

  /** What the request waits for now; it fails when the client leaves. */
  readonly waitsFor = (waiting: Waiting): void => {
    this.#waiting = waiting;
    if (this.#gone) waiting.fail(this.#gone);
  };

  /** The request has ended: nothing can end it any more. */
  close(): void {
    this.#over = true;
    this.#waiting = this.#also = undefined;
    this.deadlines.unwatch(this);
  }
}
