// SPDX-License-Identifier: Apache-2.0
// A second attempt at another endpoint for a stream whose first token is later than nearly all are: whichever comes first
// is the answer, and the other is given up. Only for a small share of the requests, since most of the second attempts
// compute in vain.

import type { Deadline, Deadlines } from "../base/deadlines.ts";
import type { Grant } from "../scheduler/scheduler.ts";
import { UpstreamError } from "../upstream/errors.ts";
import type { RetryBudget } from "../upstream/retry_budget.ts";
import type { Answer } from "./answer.ts";
import type { Call } from "./call.ts";
import type { Waiting } from "./cancellation.ts";

export interface HedgeParts {
  readonly deadlines: Deadlines;
  /** Second attempts that requests may still have. */
  readonly budget: RetryBudget;
  /** Ms from when a request was sent until it is hedged, by its model; Infinity for never. */
  afterMs(model: number): number;
  /** A second attempt begins; it was the answer. */
  begun(): void;
  won(): void;
}

/** An answer, and the grant under which it came. */
export interface Hedged {
  readonly answer: Answer;
  readonly grant: Grant;
}

/** What a second attempt waits for, and what can end it. */
class Second implements Waiting {
  gone = false;
  #waiting: Waiting | undefined;
  #error: UpstreamError | undefined;
  /** A second attempt makes room for nobody: it is given up with the first. */
  readonly answering = (): void => {};

  readonly waitsFor = (waiting: Waiting): void => {
    this.#waiting = waiting;
    if (this.#error) waiting.fail(this.#error);
  };

  fail(error: UpstreamError): void {
    this.gone = true;
    this.#error ??= error;
    this.#waiting?.fail(error);
  }

  interrupt(error: UpstreamError): void {
    this.#waiting?.fail(error);
  }
}

class Timer implements Deadline {
  place = -1;
  readonly due: Promise<"late">;
  readonly expire: () => void;
  constructor(readonly deadline: number) {
    const { promise, resolve } = Promise.withResolvers<"late">();
    this.due = promise;
    this.expire = () => resolve("late");
  }
}

const GIVEN_UP = () => new UpstreamError("preempted", "another endpoint was faster");

/**
 * Waits for the first attempt, and for a second one where that is late. The grant of the attempt that is not the answer is
 * disposed of; the other is the caller's. Throws what the first attempt fails with when both fail.
 * @param dispatch Makes an attempt under a grant, of a call.
 */
export async function hedge(
  parts: HedgeParts,
  call: Call,
  grant: Grant,
  dispatch: (grant: Grant, call: Call) => Promise<Answer>,
): Promise<Hedged> {
  parts.budget.deposit();
  const first = dispatch(grant, call);
  const afterMs = parts.afterMs(call.modelRow);
  if (afterMs === Infinity) return { answer: await first, grant };
  const timer = new Timer(call.sentAt + afterMs);
  parts.deadlines.watch(timer);
  const early = await Promise.race([first.then(() => "answered", () => "failed"), timer.due]);
  parts.deadlines.unwatch(timer);
  const twin = early === "late" && !call.cancellation.gone && parts.budget.tryWithdraw() ? grant.twin() : undefined;
  if (twin === undefined) return { answer: await first, grant };

  parts.begun();
  const second = new Second();
  call.cancellation.also(second);
  // Its own endpoint and times, the rest is the call's.
  const other: Call = Object.create(call, {
    cancellation: { value: second },
    waitsFor: { value: second.waitsFor },
  });
  const attempt = dispatch(twin, other);
  try {
    const good = async (answering: Promise<Answer>) => {
      const answer = await answering;
      if (answer.head.status >= 500) throw answer;
      return answer;
    };
    const winner = await Promise.any([
      good(first).then((answer) => ({ answer, grant })),
      good(attempt).then((answer) => ({ answer, grant: twin })),
    ]);
    if (winner.grant === twin) {
      parts.won();
      const { endpoint, endpointRow, sentAt, predictedMs } = other;
      giveUp(first, () => call.cancellation.interrupt(GIVEN_UP()), grant);
      Object.assign(call, { endpoint, endpointRow, sentAt, predictedMs, tries: call.tries + 1 });
    } else giveUp(attempt, () => second.fail(GIVEN_UP()), twin);
    return winner;
  } catch {
    giveUp(attempt, () => {}, twin);
    return { answer: await first, grant };
  } finally {
    call.cancellation.notAlso(second);
  }
}

// Ends an attempt that nobody waits for any more, and its load.
function giveUp(attempt: Promise<Answer>, end: () => void, grant: Grant): void {
  attempt.then(({ body }) => body.close(), () => {}).finally(() => grant[Symbol.dispose]());
  end();
}
