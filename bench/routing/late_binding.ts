// SPDX-License-Identifier: Apache-2.0
// Late binding, a candidate for the gateway's queue: a request is sent only when an engine has room for its prefill.
//
//   cost of request r on engine i = (ahead_i + uncached_ri) / rate + steps · step time + charge · uncached_ri / rate
//
// ahead_i are the uncached prompt tokens sent to i and not yet prefilled; an engine has room while they are fewer than
// `roomTokens`. The last term charges for prefill capacity that a recomputation takes from others. A request whose best
// engine has no room waits, unless the best one with room costs at most `slackS` more. When room appears, the waiting
// request with the smallest uncached seconds / (1 + ageing · seconds waited) goes first.

import type { Random } from "../../test/support/seed.ts";
import type { Fleet, Job, RoutingPolicy } from "./simulator.ts";
import { BLOCK_TOKENS } from "./trace.ts";

export interface LateBindingOptions {
  readonly roomTokens: number;
  /** Prefill tokens a second. */
  readonly rate: number;
  /** Tokens of a prefill chunk, and what a step takes beside them. */
  readonly chunkTokens: number;
  readonly stepS: number;
  readonly slackS: number;
  readonly charge: number;
  readonly ageing: number;
}

export const LATE_BINDING: LateBindingOptions = {
  roomTokens: 2_048,
  rate: 8_000,
  chunkTokens: 2_048,
  stepS: 0.02,
  slackS: 0.5,
  charge: 5,
  ageing: 0.5,
};

interface Waiting {
  readonly job: Job;
  /** The engine that was cheapest when it came. */
  readonly best: number;
}

export class LateBinding implements RoutingPolicy {
  readonly #ahead: number[];
  readonly #waiting: Waiting[] = [];

  constructor(readonly fleet: Fleet, readonly random: Random, readonly options = LATE_BINDING) {
    this.#ahead = fleet.engines.map(() => 0);
  }

  arrive(job: Job): void {
    const engines = this.fleet.engines.length;
    const { roomTokens, slackS } = this.options;
    let best = { engine: -1, cost: Infinity };
    let withRoom = { engine: -1, cost: Infinity };
    // From a random engine on, so that ties do not favour the first.
    const start = this.random.below(engines);
    for (let k = 0; k < engines; k++) {
      const engine = (start + k) % engines;
      const cost = this.#cost(job, engine);
      if (cost < best.cost) best = { engine, cost };
      if (this.#ahead[engine] < roomTokens && cost < withRoom.cost) withRoom = { engine, cost };
    }
    if (withRoom.cost <= best.cost + slackS) this.#send(job, withRoom.engine);
    else this.#waiting.push({ job, best: best.engine });
  }

  firstToken(job: Job): void {
    this.#ahead[job.engine] -= job.pendingTokens;
    while (this.#ahead[job.engine] < this.options.roomTokens && this.#fill(job.engine));
  }

  end(_job: Job): void {}

  #uncached(job: Job, engine: number): number {
    return Math.max(1, job.inputTokens - this.fleet.engines[engine].cache.match(job.blocks) * BLOCK_TOKENS);
  }

  #cost(job: Job, engine: number): number {
    const { rate, chunkTokens, stepS, charge } = this.options;
    const uncached = this.#uncached(job, engine);
    const tokens = this.#ahead[engine] + uncached;
    // Among engines that are alike in this, the one with the smaller batch decodes faster.
    return tokens / rate + Math.ceil(tokens / chunkTokens) * stepS + charge * uncached / rate +
      0.0005 * this.fleet.inFlight[engine];
  }

  #send(job: Job, engine: number): void {
    job.pendingTokens = this.#uncached(job, engine);
    this.#ahead[engine] += job.pendingTokens;
    this.fleet.send(job, engine);
  }

  // Gives an engine with room the waiting request that gains most; false when nobody wants it.
  #fill(engine: number): boolean {
    const { rate, slackS, ageing } = this.options;
    let chosen = -1;
    let least = Infinity;
    for (const [i, { job, best }] of this.#waiting.entries()) {
      if (best !== engine && this.#cost(job, engine) > this.#cost(job, best) + slackS) continue;
      const waitedS = (this.fleet.now - job.at) / 1_000;
      const rank = this.#uncached(job, engine) / rate / (1 + ageing * waitedS);
      if (rank < least) {
        least = rank;
        chosen = i;
      }
    }
    if (chosen < 0) return false;
    const [{ job }] = this.#waiting.splice(chosen, 1);
    this.#send(job, engine);
    return true;
  }
}
