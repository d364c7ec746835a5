// SPDX-License-Identifier: Apache-2.0
// First tokens that nobody sees, those of answers that are not streamed: a prompt's load comes off when its prefill is over
// by prediction, counted again from each endpoint that it is sent to. (What an engine tells of its queue may end it
// sooner: hidden_prefills.ts.)

import type { Deadline, Deadlines } from "../base/deadlines.ts";
import type { Grant } from "./scheduler.ts";

export interface Presumption extends Disposable {
  /** The request was sent to another endpoint. */
  again(): void;
}

/** @param margin Multiple of the predicted time after which the first token is presumed. */
export function presumeFirstToken({ leg, predictedMs }: Grant, deadlines: Deadlines, margin: number): Presumption {
  const ms = predictedMs * margin;
  const deadline: Deadline = { deadline: deadlines.clock.now() + ms, place: -1, expire: () => leg.firstToken() };
  deadlines.watch(deadline);
  return {
    again() {
      deadline.deadline = deadlines.clock.now() + ms;
      deadlines.watch(deadline);
    },
    [Symbol.dispose]: () => deadlines.unwatch(deadline),
  };
}
