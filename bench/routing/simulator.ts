// SPDX-License-Identifier: Apache-2.0
// A fleet of engines on a virtual clock: the mock engine's own model, driven by events instead of time. A policy is told
// of arrivals, first tokens and ends, and sends requests to engines whenever it likes.

import { EngineModel, type EngineProfile, type Sequence } from "../../src/mock/engine_model.ts";
import { BLOCK_TOKENS, type TraceRequest } from "./trace.ts";

/** The engine of the reference figures: blocks of 512 tokens, 1,024 of them. */
export const PROFILE: EngineProfile = {
  prefillTokensPerSecond: 8_000,
  prefillChunkTokens: 2_048,
  stepBaseMs: 6,
  stepPerRunningMs: 0.35,
  maxRunning: 256,
  blockTokens: BLOCK_TOKENS,
  kvBlocks: 1_024,
};

/** A request in the simulation and what became of it. */
export interface Job extends TraceRequest {
  readonly index: number;
  engine: number;
  sentAt: number;
  firstTokenAt: number;
  endAt: number;
  cachedTokens: number;
  /** Sent before its prefill was over: prompt tokens that its engine has still to compute, by what the policy knew. */
  pendingTokens: number;
}

/** What a policy may do and see. */
export interface Fleet {
  readonly now: number;
  readonly engines: readonly EngineModel[];
  /** Requests of the policy on each engine, and prompt tokens before their first token. */
  readonly inFlight: readonly number[];
  send(job: Job, engine: number): void;
  /** Calls back after some milliseconds. */
  after(ms: number, call: () => void): void;
}

export interface RoutingPolicy {
  arrive(job: Job): void;
  firstToken(job: Job): void;
  end(job: Job): void;
}

export class Simulator implements Fleet {
  now = 0;
  readonly engines: EngineModel[];
  readonly inFlight: number[];
  readonly #heap: { at: number; order: number; run: () => void }[] = [];
  readonly #stepping: boolean[];
  readonly #speeds: number[];
  #order = 0;
  #policy: RoutingPolicy | undefined;
  sent: number[];
  sentTokens: number[];

  constructor(profiles: readonly EngineProfile[], speeds: readonly number[] = []) {
    this.engines = profiles.map((profile) => new EngineModel(profile));
    this.inFlight = profiles.map(() => 0);
    this.sent = profiles.map(() => 0);
    this.sentTokens = profiles.map(() => 0);
    this.#stepping = profiles.map(() => false);
    this.#speeds = profiles.map((_, i) => speeds[i] ?? 1);
  }

  after(ms: number, run: () => void): void {
    this.#push(this.now + ms, run);
  }

  send(job: Job, engine: number): void {
    const model = this.engines[engine];
    job.engine = engine;
    job.sentAt = this.now;
    this.inFlight[engine]++;
    this.sent[engine]++;
    this.sentTokens[engine] += job.inputTokens;
    const sequence: Sequence = {
      promptTokens: job.inputTokens,
      outputTokens: job.outputTokens,
      blocks: job.blocks,
      onToken: (generated) => {
        if (generated === 1) {
          job.firstTokenAt = this.now;
          job.cachedTokens = model.cachedTokens(sequence);
          this.#policy!.firstToken(job);
        }
        if (generated < job.outputTokens) return;
        job.endAt = this.now;
        this.inFlight[engine]--;
        this.#policy!.end(job);
      },
    };
    model.submit(sequence);
    if (!this.#stepping[engine]) this.#step(engine);
  }

  #step(engine: number): void {
    const duration = this.engines[engine].beginStep();
    this.#stepping[engine] = duration !== undefined;
    if (duration === undefined) return;
    this.#push(this.now + duration / this.#speeds[engine], () => {
      this.engines[engine].endStep();
      this.#step(engine);
    });
  }

  /** Runs the trace to the end of its last answer. `scale` is the rate: 2 is twice as fast. */
  run(
    requests: readonly TraceRequest[],
    scale: number,
    make: (fleet: Fleet) => RoutingPolicy,
    limitMs = Infinity,
  ): Job[] {
    const jobs = requests.map((request, index): Job => ({
      ...request,
      index,
      at: request.at / scale,
      engine: -1,
      sentAt: NaN,
      firstTokenAt: NaN,
      endAt: NaN,
      cachedTokens: 0,
      pendingTokens: 0,
    }));
    const policy = make(this);
    this.#policy = policy;
    let next = 0;
    for (;;) {
      const event = this.#heap[0];
      const job = jobs[next];
      if (job !== undefined && (event === undefined || job.at <= event.at)) {
        this.now = Math.max(this.now, job.at);
        next++;
        policy.arrive(job);
      } else if (event !== undefined) {
        this.#pop();
        this.now = event.at;
        event.run();
      } else return jobs;
      if (this.now > limitMs) return jobs;
    }
  }

  #push(at: number, run: () => void): void {
    const heap = this.#heap;
    const item = { at, order: this.#order++, run };
    let i = heap.push(item) - 1;
    while (i > 0) {
      const parent = (i - 1) >> 1;
      if (before(heap[parent], item)) break;
      heap[i] = heap[parent];
      i = parent;
    }
    heap[i] = item;
  }

  #pop(): void {
    const heap = this.#heap;
    const last = heap.pop()!;
    if (heap.length === 0) return;
    let i = 0;
    for (;;) {
      let child = 2 * i + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && before(heap[child + 1], heap[child])) child++;
      if (before(last, heap[child])) break;
      heap[i] = heap[child];
      i = child;
    }
    heap[i] = last;
  }
}

function before(a: { at: number; order: number }, b: { at: number; order: number }): boolean {
  return a.at < b.at || (a.at === b.at && a.order < b.order);
}
