// SPDX-License-Identifier: Apache-2.0
// A fleet of engines on a virtual clock: the mock engine's own model, driven by events instead of time. A policy is told
// of arrivals, first tokens and ends, and sends requests to engines whenever it likes.

import { setImmediate } from "node:timers";
import { EngineModel, type EngineProfile, type Sequence } from "../../src/mock/engine_model.ts";
import { Random } from "../../src/base/random.ts";
import { type CacheKeys, cacheKeys } from "./cache_keys.ts";
import { EventHeap } from "./event_heap.ts";
import type { TraceRequest } from "./trace.ts";

/** A request in the simulation and what became of it. */
export interface Job extends TraceRequest {
  readonly index: number;
  /** Its prompt in the blocks of each size that the engines have. */
  readonly keys: CacheKeys;
  /** Its first token is not seen by the gateway. */
  readonly hidden: boolean;
  /** The gateway refused it. */
  refused: boolean;
  engine: number;
  sentAt: number;
  firstTokenAt: number;
  endAt: number;
  cachedTokens: number;
  /** Prompt tokens that its engine had still to compute when it was sent, by what the policy knew. */
  pendingTokens: number;
}

/** What an engine's metrics say. */
export interface EngineGauges {
  waiting: number;
  running: number;
  generated: number;
  kvUsage: number;
  blocksInUse: number;
}

/** What a policy may do and see. */
export interface Fleet {
  readonly now: number;
  readonly engines: readonly EngineModel[];
  /** Whether any request is still to come or to end: what happens again and again stops then. */
  readonly busy: boolean;
  /** Requests on each engine, and of them prompt tokens to compute before their first token, as far as is known. */
  readonly inFlight: readonly number[];
  readonly pending: readonly number[];
  /** As they were when the engines were last asked. */
  readonly gauges: readonly EngineGauges[];
  send(job: Job, engine: number): void;
  /** Prompt tokens of a job that an engine's cache holds at this moment. */
  heldTokens(job: Job, engine: number): number;
  /** A request is not sent at all. */
  refuse(job: Job): void;
  /** Tells the policies of the other gateways something, when they are told next. */
  tellOthers(call: (other: RoutingPolicy) => void): void;
  /** Calls back after some milliseconds. */
  after(ms: number, call: () => void): void;
  /** Promises were resolved: what waits for them goes on before time does. */
  unsettled(): void;
}

export interface RoutingPolicy {
  arrive(job: Job): void;
  /** Not called for a job whose first token is hidden. */
  firstToken(job: Job): void;
  end(job: Job): void;
  /** The run is over. */
  close?(): void;
  /** What other gateways have on the engines. */
  setRemote?(inFlight: readonly number[], promptTokens: readonly number[]): void;
}

/** What makes life hard for a policy. */
export interface Disturbance {
  /** How old metrics are; 0 for always fresh, Infinity for none. */
  metricsAgeMs: number;
  /** Gateways that share the traffic, and how often they tell each other their load. */
  gateways: number;
  syncMs: number;
  /** Speed of each engine, 1 where it is not given. */
  speeds: readonly number[];
  /** Share of the requests whose first token is not seen. */
  hidden: number;
  /** The learned rates are this many times the true ones, and stay so; undefined: learned as always. */
  rateError: number | undefined;
  /** Ms that a request takes to its engine, and an answer back. */
  networkMs: number;
  /** Share of its KV blocks that each engine has. */
  cacheShare: number;
  /** How often each engine loses what its cache holds idle. */
  resetMs: number;
}

export const UNDISTURBED: Disturbance = {
  metricsAgeMs: 0,
  gateways: 1,
  syncMs: 50,
  speeds: [],
  hidden: 0,
  rateError: undefined,
  networkMs: 0,
  cacheShare: 1,
  resetMs: Infinity,
};

const NO_GAUGES: EngineGauges = { waiting: 0, running: 0, generated: 0, kvUsage: 0, blocksInUse: 0 };

/** One gateway's view of the fleet: its own accounting, and the others' as last heard. */
class View implements Fleet {
  readonly inFlight: number[];
  readonly pending: number[];
  readonly ownInFlight: number[];
  readonly ownPending: number[];
  readonly ownPrompt: number[];
  policy!: RoutingPolicy;

  constructor(readonly simulator: Simulator) {
    const zeros = () => simulator.engines.map(() => 0);
    [this.inFlight, this.pending, this.ownInFlight, this.ownPending, this.ownPrompt] = [
      zeros(),
      zeros(),
      zeros(),
      zeros(),
      zeros(),
    ];
  }

  get now(): number {
    return this.simulator.now;
  }
  get busy(): boolean {
    return this.simulator.busy;
  }
  get engines(): readonly EngineModel[] {
    return this.simulator.engines;
  }
  get gauges(): readonly EngineGauges[] {
    return this.simulator.gauges();
  }
  after(ms: number, call: () => void): void {
    this.simulator.after(ms, call);
  }
  unsettled(): void {
    this.simulator.unsettled = true;
  }
  tellOthers(call: (other: RoutingPolicy) => void): void {
    const { views, disturbance } = this.simulator;
    if (views.length === 1) return;
    this.after(disturbance.syncMs, () => {
      for (const view of views) if (view !== this) call(view.policy);
    });
  }

  #add(engine: number, requests: number, pending: number, prompt: number): void {
    this.inFlight[engine] += requests;
    this.ownInFlight[engine] += requests;
    this.pending[engine] += pending;
    this.ownPending[engine] += pending;
    this.ownPrompt[engine] += prompt;
  }

  send(job: Job, engine: number): void {
    this.#add(engine, 1, job.pendingTokens, job.inputTokens);
    job.engine = engine;
    job.sentAt = this.now;
    this.#onItsWay(() => this.simulator.submit(job, engine, this));
  }

  #onItsWay(arrive: () => void): void {
    const { networkMs } = this.simulator.disturbance;
    if (networkMs === 0) arrive();
    else this.after(networkMs, arrive);
  }

  heldTokens(job: Job, engine: number): number {
    const { cache, profile } = this.engines[engine];
    return Math.min(job.inputTokens, cache.match(job.keys.of(profile.blockTokens)) * profile.blockTokens);
  }

  refuse(job: Job): void {
    job.refused = true;
    this.simulator.ended();
  }

  firstToken(job: Job): void {
    this.#onItsWay(() => {
      job.firstTokenAt = this.now;
      if (job.hidden) return;
      this.#add(job.engine, 0, -job.pendingTokens, -job.inputTokens);
      this.policy.firstToken(job);
    });
  }

  end(job: Job): void {
    this.#onItsWay(() => this.#ended(job));
  }

  #ended(job: Job): void {
    job.endAt = this.now;
    this.simulator.ended();
    if (job.hidden) this.#add(job.engine, -1, -job.pendingTokens, -job.inputTokens);
    else this.#add(job.engine, -1, 0, 0);
    this.policy.end(job);
  }

  /** Hears what the others have on the engines. */
  hear(others: readonly View[]): void {
    const sum = (of: (view: View) => number[], engine: number) =>
      others.reduce((total, view) => total + (view === this ? 0 : of(view)[engine]), 0);
    const engines = this.engines.map((_, engine) => engine);
    const requests = engines.map((engine) => sum((view) => view.ownInFlight, engine));
    const prompts = engines.map((engine) => sum((view) => view.ownPrompt, engine));
    for (const engine of engines) {
      this.inFlight[engine] = this.ownInFlight[engine] + requests[engine];
      this.pending[engine] = this.ownPending[engine] + sum((view) => view.ownPending, engine);
    }
    this.policy.setRemote?.(requests, prompts);
  }
}

export class Simulator {
  now = 0;
  readonly engines: EngineModel[];
  readonly #events = new EventHeap();
  readonly #stepping: boolean[];
  #gauges: readonly EngineGauges[] = [];
  #gaugesAt = -Infinity;
  #open = 0;
  unsettled = false;
  views: readonly View[] = [];
  sent: number[];
  sentTokens: number[];

  constructor(profiles: readonly EngineProfile[], readonly disturbance: Disturbance = UNDISTURBED) {
    const { cacheShare } = disturbance;
    this.engines = profiles.map((profile) =>
      new EngineModel({ ...profile, kvBlocks: Math.ceil(profile.kvBlocks * cacheShare) })
    );
    this.sent = profiles.map(() => 0);
    this.sentTokens = profiles.map(() => 0);
    this.#stepping = profiles.map(() => false);
  }

  /** The engines' metrics as old as the disturbance wants. */
  gauges(): readonly EngineGauges[] {
    const { metricsAgeMs } = this.disturbance;
    if (metricsAgeMs === Infinity) return this.#gauges.length > 0 ? this.#gauges : this.engines.map(() => NO_GAUGES);
    if (this.now - this.#gaugesAt >= metricsAgeMs) {
      this.#gaugesAt = this.now;
      this.#gauges = this.engines.map(({ waiting, running, generatedTokensTotal: generated, kvUsage, cache }) => ({
        waiting,
        running,
        generated,
        kvUsage,
        blocksInUse: cache.inUse,
      }));
    }
    return this.#gauges;
  }

  after(ms: number, run: () => void): void {
    this.#events.push(this.now + ms, run);
  }

  /** One request less to wait for. */
  ended(): void {
    this.#open--;
  }

  submit(job: Job, engine: number, view: View): void {
    const model = this.engines[engine];
    this.sent[engine]++;
    this.sentTokens[engine] += job.inputTokens;
    const sequence: Sequence = {
      promptTokens: job.inputTokens,
      outputTokens: job.outputTokens,
      blocks: job.keys.of(model.profile.blockTokens),
      onToken: (generated) => {
        if (generated === 1) {
          job.cachedTokens = model.cachedTokens(sequence);
          view.firstToken(job);
        }
        if (generated === job.outputTokens) view.end(job);
      },
    };
    model.submit(sequence);
    if (!this.#stepping[engine]) this.#step(engine);
  }

  #step(engine: number): void {
    const duration = this.engines[engine].beginStep();
    this.#stepping[engine] = duration !== undefined;
    if (duration === undefined) return;
    this.#events.push(this.now + duration / (this.disturbance.speeds[engine] ?? 1), () => {
      this.engines[engine].endStep();
      this.#step(engine);
    });
  }

  get busy(): boolean {
    return this.#open > 0;
  }

  /** Runs the trace to the end of its last answer. `scale` is the rate: 2 is twice as fast. */
  async run(
    requests: readonly TraceRequest[],
    scale: number,
    make: (fleet: Fleet) => RoutingPolicy,
  ): Promise<Job[]> {
    const { gateways, syncMs, hidden } = this.disturbance;
    const random = new Random(7);
    const jobs = requests.map((request, index): Job => ({
      ...request,
      index,
      keys: cacheKeys(request),
      hidden: random.next() < hidden,
      at: request.at / scale,
      refused: false,
      engine: -1,
      sentAt: NaN,
      firstTokenAt: NaN,
      endAt: NaN,
      cachedTokens: 0,
      pendingTokens: 0,
    }));
    this.#open = jobs.length;
    const views = this.views = Array.from({ length: gateways }, () => new View(this));
    for (const view of views) view.policy = make(view);
    if (gateways > 1) {
      const sync = () => {
        for (const view of views) view.hear(views);
        if (this.busy) this.after(syncMs, sync);
      };
      sync();
    }
    const { resetMs } = this.disturbance;
    this.engines.forEach(({ cache }, i) => {
      if (resetMs === Infinity) return;
      const reset = () => {
        cache.clear();
        if (this.busy) this.after(resetMs, reset);
      };
      this.after(resetMs * (1 + i) / this.engines.length, reset);
    });
    let next = 0;
    for (;;) {
      if (this.unsettled) {
        this.unsettled = false;
        await new Promise((resolve) => setImmediate(resolve));
      }
      const event = this.#events.first;
      const job = jobs[next];
      if (job !== undefined && (event === undefined || job.at <= event.at)) {
        this.now = Math.max(this.now, job.at);
        next++;
        views[gateways === 1 ? 0 : random.below(gateways)].policy.arrive(job);
      } else if (event !== undefined) {
        this.#events.pop();
        this.now = event.at;
        event.run();
      } else break;
    }
    for (const { policy } of views) policy.close?.();
    return jobs;
  }
}
