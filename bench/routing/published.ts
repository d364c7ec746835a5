// SPDX-License-Identifier: Apache-2.0
// Routing rules that others publish, each by its description or source of 2026. They see the engines' caches as they are at this moment: no
// rule is judged by guessed figures. What comes from metrics or from other gateways is as old as the disturbance makes it.

import type { Random } from "../../src/base/random.ts";
import type { Fleet, Job, RoutingPolicy } from "./simulator.ts";

abstract class Rule implements RoutingPolicy {
  constructor(readonly fleet: Fleet, readonly random: Random) {}
  /** `held` are the prompt tokens that each engine's cache holds. */
  abstract choose(job: Job, held: number[]): number;
  arrive(job: Job): void {
    const held = this.fleet.engines.map((_, engine) => this.fleet.heldTokens(job, engine));
    const engine = this.choose(job, held);
    job.pendingTokens = job.inputTokens - held[engine];
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

function dynamoCost({ engines, pending, gauges }: Fleet, job: Job, engine: number, held: number): number {
  const { blockTokens } = engines[engine].profile;
  return (pending[engine] + job.inputTokens - held) / blockTokens + gauges[engine].blocksInUse;
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
    choose(_: Job, held: number[]): number {
      const max = Math.max(...held);
      const holders = [...held.keys()].filter((engine) => held[engine] === max);
      return this.cheapest((engine) => this.fleet.inFlight[engine], holders);
    }
  },
  /** SGLang's router: the holder when it has more than 0.3 of the prompt, the least loaded otherwise or when out of balance. */
  sglang_cache_aware: class extends Rule {
    choose(job: Job, held: number[]): number {
      const [low, high] = range(this.fleet.inFlight);
      const max = Math.max(...held);
      if ((high - low > 64 && high > 1.5 * low) || max / job.inputTokens <= 0.3) {
        return this.cheapest((engine) => this.fleet.inFlight[engine]);
      }
      return this.cheapest((engine) => -held[engine]);
    }
  },
  /**
   * SMG, its successor: holders of more than 0.3 of the prompt, but for those with 64 requests and a half more than the mean;
   * of these, or of all, the least expected wait.
   */
  smg_cache_aware: class extends Rule {
    choose(job: Job, held: number[]): number {
      const { inFlight, engines } = this.fleet;
      const mean = inFlight.reduce((sum, load) => sum + load, 0) / inFlight.length;
      const max = Math.max(...held);
      const holders = max / job.inputTokens <= 0.3
        ? []
        : [...held.keys()].filter((engine) =>
          held[engine] === max && !(inFlight[engine] > 1.5 * mean && inFlight[engine] > mean + 64)
        );
      return this.cheapest((engine) => {
        const kv = Math.min(0.99, this.fleet.gauges[engine].kvUsage);
        return this.fleet.pending[engine] / engines[engine].profile.prefillTokensPerSecond + 0.15 * kv / (1 - kv);
      }, holders.length > 0 ? holders : undefined);
    }
  },
  /** llm-d's weighted scorers: queue, KV use, prefix. */
  llmd_blend: class extends Rule {
    choose(job: Job, held: number[]): number {
      const { gauges } = this.fleet;
      const queues = gauges.map(({ waiting }) => waiting);
      const [low, high] = range(queues);
      return this.cheapest((engine) => {
        const queue = high === low ? 1 : (high - queues[engine]) / (high - low);
        const kv = 1 - gauges[engine].kvUsage;
        return -(2 * queue + 2 * kv + 3 * held[engine] / job.inputTokens);
      });
    }
  },
  /**
   * llm-d's affinity filter: holders of 0.8 of the prompt, unless the least loaded of them has 18 s more ahead than the least
   * loaded other; of these the least tokens in flight, the request's own included.
   */
  llmd_sticky: class extends Rule {
    choose(job: Job, held: number[]): number {
      const { engines, pending } = this.fleet;
      const wait = (engine: number) => pending[engine] / engines[engine].profile.prefillTokensPerSecond;
      const all = [...held.keys()];
      const holders = all.filter((engine) => held[engine] / job.inputTokens >= 0.8);
      const others = all.filter((engine) => held[engine] / job.inputTokens < 0.8);
      const behind = Math.min(...holders.map(wait)) - Math.min(...others.map(wait));
      const among = holders.length > 0 && !(others.length > 0 && behind > 18) ? holders : undefined;
      return this.cheapest((engine) => pending[engine] + job.inputTokens - held[engine], among);
    }
  },
  /** Dynamo: prefill blocks ahead and to compute there, and blocks in use for decoding, smallest. */
  dynamo_cost: class extends Rule {
    choose(job: Job, held: number[]): number {
      return this.cheapest((engine) => dynamoCost(this.fleet, job, engine, held[engine]));
    }
  },
  /**
   * Dynamo with its queue, which is off unless asked for: while every engine has more prefill tokens ahead than one step
   * takes, requests wait, the fewest uncached tokens on their best engine first, as they were when they came.
   */
  dynamo_queue: class extends Rule {
    readonly #waiting: { job: Job; least: number }[] = [];

    choose(job: Job, held: number[]): number {
      return this.cheapest((engine) => dynamoCost(this.fleet, job, engine, held[engine]));
    }

    override arrive(job: Job): void {
      const least = Math.min(
        ...this.fleet.engines.map((_, engine) => job.inputTokens - this.fleet.heldTokens(job, engine)),
      );
      this.#waiting.push({ job, least: Math.max(1, least) });
      this.#drain();
    }

    override firstToken(): void {
      this.#drain();
    }

    override end(): void {
      this.#drain();
    }

    #drain(): void {
      const { engines, pending } = this.fleet;
      const open = () => engines.some(({ profile }, engine) => pending[engine] <= profile.prefillChunkTokens);
      while (this.#waiting.length > 0 && open()) {
        const next = this.#waiting.reduce((a, b) => b.least < a.least ? b : a);
        this.#waiting.splice(this.#waiting.indexOf(next), 1);
        super.arrive(next.job);
      }
    }
  },
  /** AIBrix: the longest prefix among engines within one deviation of the mean load; least requests when unbalanced. */
  aibrix_prefix: class extends Rule {
    choose(_: Job, held: number[]): number {
      const loads = this.fleet.inFlight;
      const [low, high] = range(loads);
      if (high - low > 8) return this.cheapest((engine) => loads[engine]);
      const mean = loads.reduce((sum, load) => sum + load, 0) / loads.length;
      const deviation = Math.sqrt(loads.reduce((sum, load) => sum + (load - mean) ** 2, 0) / loads.length);
      const near = [...loads.keys()].filter((engine) => loads[engine] <= mean + deviation);
      const max = Math.max(...near.map((engine) => held[engine]));
      return this.cheapest((engine) => loads[engine], near.filter((engine) => held[engine] === max));
    }
  },
};
