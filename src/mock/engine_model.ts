// SPDX-License-Identifier: Apache-2.0
// An inference engine as a step machine without a clock: the mock engine drives it in real time, simulations on a
// virtual clock. Chunked prefill and continuous batching, first come first served:
//
//   step ms = base + per running · running + per context · context + 1000 · prefill tokens / prefill rate
//           + attention · Σ((done + chunk)² − done²)
//
// where context are the thousands of tokens behind the sequences that generate, and done and chunk those of a prefill
// before and in this step, in thousands. A step takes every sequence that is past its prefill one token further and gives
// what is left of the chunk budget to prefills in order of arrival. The prefix cache shortens the prefill of a prompt
// whose blocks are there, but for its last token, which is always computed.
//
// With `growing`, sequences take their blocks and their share of the budget as vLLM's scheduler lets them: a generated
// token counts as a token of the budget, blocks are taken when they begin, and when there is none the sequence that came
// last gives up its own, waits in front of the others, and computes again what is not cached.

import { assert } from "../base/assert.ts";
import { type Allocation, type BlockKey, KvCache } from "./kv_cache.ts";

/** A hardware profile. */
export interface EngineProfile {
  prefillTokensPerSecond: number;
  /** Most prompt tokens of one step. */
  prefillChunkTokens: number;
  stepBaseMs: number;
  stepPerRunningMs: number;
  maxRunning: number;
  blockTokens: number;
  kvBlocks: number;
  /** Ms that a step takes for each thousand tokens behind the sequences that generate. */
  stepPerContextMs?: number;
  /** Ms of attention in a prefill of a thousand tokens; it grows with their square. */
  attentionMs?: number;
  /** Budget and blocks as in vLLM; else a sequence has all its blocks from its beginning, and its tokens beside the budget. */
  growing?: boolean;
  /** Most tokens of one prompt in a step, so that several are computed at once; all of the budget when not given. */
  longPrefillTokens?: number;
}

export const DEFAULT_PROFILE: EngineProfile = {
  prefillTokensPerSecond: 8_000,
  prefillChunkTokens: 2_048,
  stepBaseMs: 6,
  stepPerRunningMs: 0.35,
  maxRunning: 256,
  blockTokens: 16,
  kvBlocks: 32_768,
};

/** Ms that a prompt of so many tokens, of which the last `uncached` are computed, takes an engine that has nothing else. */
export function prefillMs(profile: EngineProfile, promptTokens: number, uncached: number): number {
  const { prefillTokensPerSecond, prefillChunkTokens, stepBaseMs, stepPerRunningMs, attentionMs = 0 } = profile;
  const steps = Math.ceil(uncached / prefillChunkTokens);
  const squares = (promptTokens / 1_000) ** 2 - ((promptTokens - uncached) / 1_000) ** 2;
  return steps * (stepBaseMs + stepPerRunningMs) + 1_000 * uncached / prefillTokensPerSecond + attentionMs * squares;
}

/** One request inside an engine. */
export interface Sequence {
  readonly promptTokens: number;
  readonly outputTokens: number;
  /** Keys of the prompt's full blocks. */
  readonly blocks: readonly BlockKey[];
  /** Called at the end of a step with the number of tokens generated so far; the last call has `outputTokens`. */
  onToken(generated: number): void;
}

interface Entry {
  sequence: Sequence;
  allocation?: Allocation;
  /** Prompt tokens still to compute. */
  prefillLeft: number;
  /** Prompt tokens to compute in the step under way. */
  computing: number;
  /** Tokens that it is preempted with: its prompt, and what it had generated. */
  context: number;
  generated: number;
  /** Whether it takes part in the step under way. */
  stepping: boolean;
}

export class EngineModel {
  readonly cache: KvCache;
  readonly #entries = new Map<Sequence, Entry>();
  readonly #waiting: Entry[] = [];
  readonly #running: Entry[] = [];
  #stepping = false;
  promptTokensTotal = 0;
  generatedTokensTotal = 0;
  preemptionsTotal = 0;

  constructor(readonly profile: EngineProfile = DEFAULT_PROFILE) {
    this.cache = new KvCache(profile.kvBlocks);
  }

  get waiting(): number {
    return this.#waiting.length;
  }

  get running(): number {
    return this.#running.length;
  }

  /** Share of the KV blocks in use, 0 to 1. */
  get kvUsage(): number {
    return this.cache.inUse / this.cache.capacity;
  }

  get idle(): boolean {
    return this.#waiting.length === 0 && this.#running.length === 0;
  }

  /** Whether the sequence could ever run. */
  fits({ blocks, outputTokens }: Pick<Sequence, "blocks" | "outputTokens">): boolean {
    return blocks.length + this.#outputBlocks(outputTokens) <= this.profile.kvBlocks;
  }

  submit(sequence: Sequence): void {
    assert(sequence.outputTokens >= 1 && this.fits(sequence), "a sequence generates a token and fits the cache");
    const { promptTokens } = sequence;
    const entry: Entry = {
      sequence,
      prefillLeft: promptTokens,
      computing: 0,
      context: promptTokens,
      generated: 0,
      stepping: false,
    };
    this.#entries.set(sequence, entry);
    this.#waiting.push(entry);
  }

  /** Prompt tokens of a running sequence that came from the cache. */
  cachedTokens(sequence: Sequence): number {
    const hits = this.#entries.get(sequence)?.allocation?.hits ?? 0;
    return Math.min(hits * this.profile.blockTokens, Math.max(0, sequence.promptTokens - 1));
  }

  /** Drops a sequence wherever it is; its blocks are free at once. */
  cancel(sequence: Sequence): void {
    const entry = this.#entries.get(sequence);
    if (!entry) return;
    this.#entries.delete(sequence);
    if (entry.allocation) {
      this.#running.splice(this.#running.indexOf(entry), 1);
      this.cache.release(entry.allocation);
    } else this.#waiting.splice(this.#waiting.indexOf(entry), 1);
  }

  /** Starts a step; returns its duration in milliseconds, or undefined when there is nothing to do. */
  beginStep(): number | undefined {
    assert(!this.#stepping, "a step ends before the next begins");
    if (!this.profile.growing || this.#grow()) this.#admit();
    if (this.#running.length === 0) return undefined;
    this.#stepping = true;
    const { stepBaseMs, stepPerRunningMs, prefillTokensPerSecond, attentionMs = 0, growing } = this.profile;
    const { longPrefillTokens = Infinity } = this.profile;
    let budget = this.profile.prefillChunkTokens;
    let prefill = 0;
    let squares = 0;
    let context = 0;
    for (const entry of this.#running) {
      const { prefillLeft } = entry;
      entry.computing = Math.min(prefillLeft, budget, longPrefillTokens);
      entry.stepping = entry.computing > 0 || (prefillLeft === 0 && (!growing || budget > 0));
      if (prefillLeft === 0) context += entry.sequence.promptTokens + entry.generated;
      if (prefillLeft === 0 && growing && entry.stepping) budget--;
      budget -= entry.computing;
      prefill += entry.computing;
      const done = (entry.context - prefillLeft) / 1_000;
      squares += (done + entry.computing / 1_000) ** 2 - done ** 2;
    }
    return stepBaseMs + stepPerRunningMs * this.#running.length + 1_000 * prefill / prefillTokensPerSecond +
      attentionMs * squares + (this.profile.stepPerContextMs ?? 0) * context / 1_000;
  }

  /** Ends the step: tokens come out, finished sequences leave. */
  endStep(): void {
    assert(this.#stepping, "a step began");
    this.#stepping = false;
    const finished: Entry[] = [];
    const stepped = this.#running.slice();
    for (const entry of stepped) {
      if (!entry.stepping || !this.#entries.has(entry.sequence)) continue;
      entry.stepping = false;
      if (entry.prefillLeft > 0) {
        entry.prefillLeft -= entry.computing;
        this.promptTokensTotal += entry.computing;
        if (entry.prefillLeft > 0) continue;
      }
      entry.generated++;
      this.generatedTokensTotal++;
      if (entry.generated >= entry.sequence.outputTokens) finished.push(entry);
      entry.sequence.onToken(entry.generated);
    }
    for (const { sequence } of finished) this.cancel(sequence);
  }

  #outputBlocks(outputTokens: number): number {
    return Math.ceil(outputTokens / this.profile.blockTokens) + 1;
  }

  // Every sequence that generates has a block for its next token, those that came first before the others. False when
  // one was preempted for it.
  #grow(): boolean {
    const before = this.preemptionsTotal;
    for (let i = 0; i < this.#running.length; i++) {
      const { allocation, prefillLeft, sequence, generated } = this.#running[i];
      if (prefillLeft > 0 || this.#blocksOf(sequence.promptTokens + generated + 1) <= this.#held(allocation!)) continue;
      while (!this.cache.grow(allocation!)) {
        const last = this.#running.length - 1;
        this.#preempt(this.#running[last]);
        if (last === i) return false;
      }
    }
    return this.preemptionsTotal === before;
  }

  // Gives up its blocks, and waits in front of the others.
  #preempt(entry: Entry): void {
    this.#running.splice(this.#running.indexOf(entry), 1);
    this.cache.release(entry.allocation!);
    entry.allocation = undefined;
    entry.context = entry.sequence.promptTokens + entry.generated;
    this.#waiting.unshift(entry);
    this.preemptionsTotal++;
  }

  #blocksOf(tokens: number): number {
    return Math.ceil(tokens / this.profile.blockTokens);
  }

  #held({ keys, anonymous }: Allocation): number {
    return keys.length + anonymous;
  }

  #admit(): void {
    const { maxRunning, growing } = this.profile;
    while (this.#waiting.length > 0 && this.#running.length < maxRunning) {
      const entry = this.#waiting[0];
      const { sequence, context } = entry;
      const { blocks, outputTokens } = sequence;
      const more = growing
        ? Math.max(1, this.#blocksOf(context + 1) - blocks.length)
        : this.#outputBlocks(outputTokens);
      entry.allocation = this.cache.allocate(blocks, more);
      if (!entry.allocation) return;
      this.#waiting.shift();
      this.#running.push(entry);
      entry.prefillLeft = context - this.cachedTokens(sequence);
      // An empty prompt computes one token all the same.
      if (entry.prefillLeft === 0) entry.prefillLeft = 1;
    }
  }
}
