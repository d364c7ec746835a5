// SPDX-License-Identifier: Apache-2.0
// An inference engine as a step machine without a clock: the mock engine drives it in real time, simulations on a
// virtual clock. Chunked prefill and continuous batching, first come first served:
//
//   step ms = base + per running · running + 1000 · prefill tokens / prefill rate
//
// A step takes every sequence that is past its prefill one token further and gives what is left of the chunk budget to
// prefills in order of arrival. The prefix cache shortens the prefill of a prompt whose blocks are there, but for its
// last token, which is always computed.

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
  generated: number;
}

export class EngineModel {
  readonly cache: KvCache;
  readonly #entries = new Map<Sequence, Entry>();
  readonly #waiting: Entry[] = [];
  readonly #running: Entry[] = [];
  #stepping = false;
  promptTokensTotal = 0;
  generatedTokensTotal = 0;

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
    const entry = { sequence, prefillLeft: sequence.promptTokens, computing: 0, generated: 0 };
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
    this.#admit();
    if (this.#running.length === 0) return undefined;
    this.#stepping = true;
    let budget = this.profile.prefillChunkTokens;
    let prefill = 0;
    for (const entry of this.#running) {
      entry.computing = Math.min(entry.prefillLeft, budget);
      budget -= entry.computing;
      prefill += entry.computing;
    }
    const { stepBaseMs, stepPerRunningMs, prefillTokensPerSecond } = this.profile;
    return stepBaseMs + stepPerRunningMs * this.#running.length + 1_000 * prefill / prefillTokensPerSecond;
  }

  /** Ends the step: tokens come out, finished sequences leave. */
  endStep(): void {
    assert(this.#stepping, "a step began");
    this.#stepping = false;
    const finished: Entry[] = [];
    const stepped = this.#running.slice();
    for (const entry of stepped) {
      if (!this.#entries.has(entry.sequence)) continue;
      if (entry.prefillLeft > 0) {
        entry.prefillLeft -= entry.computing;
        this.promptTokensTotal += entry.computing;
        if (entry.prefillLeft > 0 || entry.computing === 0) continue;
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

  #admit(): void {
    while (this.#waiting.length > 0 && this.#running.length < this.profile.maxRunning) {
      const entry = this.#waiting[0];
      const { sequence } = entry;
      entry.allocation = this.cache.allocate(sequence.blocks, this.#outputBlocks(sequence.outputTokens));
      if (!entry.allocation) return;
      this.#waiting.shift();
      this.#running.push(entry);
      entry.prefillLeft = sequence.promptTokens - this.cachedTokens(sequence);
      // An empty prompt computes one token all the same.
      if (entry.prefillLeft === 0) entry.prefillLeft = 1;
    }
  }
}
