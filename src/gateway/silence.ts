// SPDX-License-Identifier: Apache-2.0
// An engine that takes requests and says nothing: paused, hung, or off the bus, with a health page that is fine. A request
// that has waited several times longer than predicted, while nothing at all came from its endpoint, makes that one
// suspect. It moves to another endpoint, if it can; nobody is given up who has nowhere to go. A client that leaves such
// a request has seen the same, and sooner.

import type { Deadline, Deadlines } from "../base/deadlines.ts";
import type { EndpointRef } from "../tables/endpoint_directory.ts";
import type { EndpointPulse } from "../tables/endpoint_pulse.ts";
import { UpstreamError } from "../upstream/errors.ts";
import type { Call } from "./call.ts";

export interface SilenceLimits {
  /** Times the predicted time to the answer; 0 for never. */
  readonly factor: number;
  /** Ms at least, and where the client leaves. */
  readonly ms: number;
  readonly leaverMs: number;
}

export interface SilenceParts {
  readonly deadlines: Deadlines;
  readonly pulse: EndpointPulse;
  readonly limits: SilenceLimits;
  /** Predicted ms from when a request was sent until something of its answer comes. */
  expectedMs(call: Call): number;
  /** An endpoint is suspect. */
  suspect(endpoint: EndpointRef, silentMs: number, expectedMs: number): void;
}

/** A request that waits for the first token of its answer. */
export class Silence implements Deadline {
  deadline: number;
  place = -1;
  /** The request is on its way to another endpoint. */
  moved = false;

  /** @param move Gives its endpoint up for another one; false where it has to stay. */
  constructor(
    readonly parts: SilenceParts,
    readonly call: Call,
    readonly endpoint: EndpointRef,
    readonly move: () => boolean,
  ) {
    const { deadlines, limits: { factor, ms } } = parts;
    this.deadline = factor > 0 ? call.sentAt + ms : Infinity;
    if (factor > 0) deadlines.watch(this);
  }

  /** Ms that nothing came from the endpoint while the request was there. */
  get #silentMs(): number {
    const { call: { sentAt, context: { clock } }, parts, endpoint } = this;
    return Math.min(clock.now() - sentAt, parts.pulse.silentMs(endpoint.row, clock.shared()));
  }

  expire(): void {
    const { parts, call, endpoint } = this;
    const silentMs = this.#silentMs;
    const expectedMs = parts.expectedMs(call);
    const left = Math.max(parts.limits.ms, parts.limits.factor * expectedMs) - silentMs;
    if (left > 0) {
      this.deadline = call.context.clock.now() + left;
      return parts.deadlines.watch(this);
    }
    parts.suspect(endpoint, silentMs, expectedMs);
    this.moved = this.move();
    if (this.moved) {
      call.cancellation.interrupt(
        new UpstreamError("silent", `nothing came from the engine for ${Math.round(silentMs)} ms`),
      );
    }
  }

  /** Its client left: true when the endpoint had been silent for longer than it may. */
  left(): boolean {
    const { parts: { limits, expectedMs, suspect }, call, endpoint } = this;
    const silentMs = this.#silentMs;
    if (limits.factor === 0 || silentMs < limits.leaverMs) return false;
    const expected = expectedMs(call);
    if (silentMs < limits.factor * expected) return false;
    suspect(endpoint, silentMs, expected);
    return true;
  }

  /** The wait is over. */
  end(): void {
    this.parts.deadlines.unwatch(this);
  }
}
