// SPDX-License-Identifier: Apache-2.0
// How many requests an engine runs at once, learned from what it tells of its queue. Where requests wait in it beside less
// prefill work than a step takes, and for longer than some steps, it is its slots, or the blocks of its cache, that are
// full: as many as it runs is then the limit. (Whoever comes during a step waits for the next one: that says nothing.)
// While nobody waits, the limit grows, at first as fast as it is reached: an engine that nothing is known of
// is not handed a burst whole.

/** What an engine told, and what is known to be there. */
export interface SlotReading {
  /** Requests in its queue and in its batch, as it says; undefined where it does not. */
  readonly waiting: number | undefined;
  readonly running: number | undefined;
  /** Requests on it through other gateways. */
  readonly remote: number;
  /** Whether prefill work of a step or more is ahead: then requests wait for that. */
  readonly prefilling: boolean;
  /** Ms for which the first of this gateway's requests on it has waited for its first token; 0 when none does. */
  readonly oldestMs: number;
  /** Tokens that it has generated, as it says, and when it said so, ms; undefined where it does not. */
  readonly generated: number | undefined;
  readonly atMs: number;
}

/** Requests at once on an engine that nothing is known of. */
const FIRST_LIMIT = 32;
/** Beyond this the limit is none. */
const MAX_LIMIT = 1_024;
/** A request that waits for so many steps waits for a slot; for so long, where an engine does not tell what a step takes. */
const STEPS = 4;
const LONG_MS = 1_000;

export class SlotLimit {
  /** Undefined for none. */
  #limit: number | undefined = FIRST_LIMIT;
  #learned = false;
  /** What a step takes, ms, by the tokens of the last reading and those before it. */
  #stepMs: number | undefined;
  #generated = 0;
  #generatedAt = -Infinity;

  /** @param configured What the configuration says; then nothing is learned. */
  constructor(public configured: number | undefined) {}

  /** Whether so many requests come near a limit that may still be far below what the engine can do. */
  pressed(requests: number): boolean {
    const growing = this.configured === undefined && !this.#learned && this.#limit !== undefined;
    return growing && requests >= this.#limit! / 4;
  }

  /** Takes a reading; returns the most requests of this gateway, undefined for no limit. */
  observe(reading: SlotReading): number | undefined {
    const { waiting, running, remote, prefilling, oldestMs } = reading;
    this.#observeSteps(reading);
    if (this.configured !== undefined) return Math.max(1, this.configured - remote);
    if (waiting === undefined || running === undefined) this.#limit = undefined;
    else if (waiting > 0 && running > 0) {
      if (!prefilling && oldestMs > (this.#stepMs === undefined ? LONG_MS : STEPS * this.#stepMs)) {
        this.#limit = running;
        this.#learned = true;
      }
    } else if (this.#limit !== undefined && running >= this.#limit / 2) {
      this.#limit = this.#learned ? this.#limit + 1 : this.#limit * 2;
      if (this.#limit > MAX_LIMIT) this.#limit = undefined;
    }
    return this.#limit === undefined ? undefined : Math.max(1, this.#limit - remote);
  }

  // Every sequence that it runs has a token in a step, but for those in their prefill.
  #observeSteps({ running, generated, atMs }: SlotReading): void {
    if (generated === undefined || running === undefined) return;
    const tokens = generated - this.#generated;
    if (tokens > 0 && running > 0 && this.#generatedAt > -Infinity) {
      this.#stepMs = (atMs - this.#generatedAt) * running / tokens;
    }
    this.#generated = generated;
    this.#generatedAt = atMs;
  }

  /** The engine was restarted, maybe with other options. */
  forget(): void {
    this.#limit = FIRST_LIMIT;
    this.#learned = false;
    this.#stepMs = undefined;
    this.#generatedAt = -Infinity;
  }
}
