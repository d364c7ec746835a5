// SPDX-License-Identifier: Apache-2.0
// Routing rules that others publish, each by its description. They see the engines' caches as they are at this moment: no
// rule is judged by guessed figures. What comes from metrics or from other gateways is as old as the disturbance makes it.

import type { Random } from "../../src/base/random.ts";
import type { Fleet, Job, RoutingPolicy } from "./simulator.ts";
import { BLOCK_TOKENS } from "./trace.ts";

abstract class Rule implements RoutingPolicy {
  constructor(readonly fleet: Fleet, readonly random: Random) {}
  abstract choose(job: Job, matched: number[]): number;
  arrive(job: Job): void {
    const matched = this.fleet.engines.map(({ cache }) => cache.match(job.blocks));
    const engine = this.choose(job, matched);
    job.pendingTokens = Math.max(0, job.inputTokens - matched[engine] * BLOCK_TOKENS);
    this.fleet.send(job, engine);
  }
  firstToken(_job: Job): void {}
  end(_job: Job): void {}

  /** Index with the least value; ties by lot. */
  protected cheapest(value: (engine: number) => number, among?: readonly number[]): number {
    let best: number[] = [];
    let min = Infinity;
    for (const engine of among ?? this.fleet.engines.keys()) {
      const cost = value(engine);
      if (cost < min) {
        min = cost;
        best = [engine];
      } else if (cost === min) best.push(engine);
    }
    return this.random.pick(best);
  }
}

const range = (values: readonly number[]) => [Math.min(...values), Math.max(...values)];

export const PUBLISHED: Record<string, new (fleet: Fleet, random: Random) => RoutingPolicy> = {
  random: class extends Rule {
    choose(): number {
      return this.random.below(this.fleet.engines.length);
    }
  },
  round_robin: class extends Rule {
    #turn = 0;
    choose(): number {
      return this.#turn++ % this.fleet.engines.length;
    }
  },
  least_request: class extends Rule {
    choose(): number {
      return this.cheapest((engine) => this.fleet.inFlight[engine]);
    }
  },
  /** The less loaded of two at random. */
  power_of_two: class extends Rule {
    choose(): number {
      const n = this.fleet.engines.length;
      return this.cheapest((engine) => this.fleet.inFlight[engine], [this.random.below(n), this.random.below(n)]);
    }
  },
  longest_prefix: class extends Rule {
    choose(_: Job, matched: number[]): number {
      const max = Math.max(...matched);
      const holders = [...matched.keys()].filter((engine) => matched[engine] === max);
      return this.cheapest((engine) => this.fleet.inFlight[engine], holders);
    }
  },
  /** SGLang's router: the holder when it has more than 0.3 of the prompt, the least loaded otherwise or when out of balance. */
  smg_cache_aware: class extends Rule {
    choose(job: Job, matched: number[]): number {
      const [low, high] = range(this.fleet.inFlight);
      const max = Math.max(...matched);
      if ((high - low > 64 && high > 1.5 * low) || max / job.blocks.length <= 0.3) {
        return this.cheapest((engine) => this.fleet.inFlight[engine]);
      }
      return this.cheapest((engine) => -matched[engine]);
    }
  },
  /** llm-d's weighted scorers: queue, KV use, prefix. */
  llmd_blend: class extends Rule {
    choose(job: Job, matched: number[]): number {
      const { gauges } = this.fleet;
      const queues = gauges.map(({ waiting }) => waiting);
      const [low, high] = range(queues);
      return this.cheapest((engine) => {
        const queue = high === low ? 1 : (high - queues[engine]) / (high - low);
        const kv = 1 - gauges[engine].kvUsage;
        return -(2 * queue + 2 * kv + 3 * matched[engine] / job.blocks.length);
      });
    }
  },
  /** llm-d's sticky filter: holders of 0.8 of the prefix unless their wait is above 18 s, then the least tokens. */
  llmd_sticky: class extends Rule {
    choose(job: Job, matched: number[]): number {
      const { engines, pending } = this.fleet;
      const holders = [...matched.keys()].filter((engine) =>
        matched[engine] / job.blocks.length >= 0.8 &&
        pending[engine] <= 18 * engines[engine].profile.prefillTokensPerSecond
      );
      return this.cheapest((engine) => this.fleet.pending[engine], holders.length > 0 ? holders : undefined);
    }
  },
  /** Dynamo: prefill blocks to compute there plus blocks in use for decoding, smallest. */
  dynamo_cost: class extends Rule {
    choose(job: Job, matched: number[]): number {
      const { gauges } = this.fleet;
      return this.cheapest((engine) =>
        Math.max(0, this.fleet.pending[engine] + job.inputTokens - matched[engine] * BLOCK_TOKENS) / BLOCK_TOKENS +
        gauges[engine].blocksInUse
      );
    }
  },
  /** AIBrix: the longest prefix among engines within one deviation of the mean load; least requests when unbalanced. */
  aibrix_prefix: class extends Rule {
    choose(_: Job, matched: number[]): number {
      const loads = this.fleet.inFlight;
      const [low, high] = range(loads);
      if (high - low > 8) return this.cheapest((engine) => loads[engine]);
      const mean = loads.reduce((sum, load) => sum + load, 0) / loads.length;
      const deviation = Math.sqrt(loads.reduce((sum, load) => sum + (load - mean) ** 2, 0) / loads.length);
      const near = [...loads.keys()].filter((engine) => loads[engine] <= mean + deviation);
      const max = Math.max(...near.map((engine) => matched[engine]));
      return this.cheapest((engine) => loads[engine], near.filter((engine) => matched[engine] === max));
    }
  },
};
