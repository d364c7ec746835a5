// SPDX-License-Identifier: Apache-2.0
// How many requests an engine runs at once, learned from what it tells of its queue. Where requests wait in it beside less
// prefill work than a step takes, it is its slots, or the blocks of its cache, that are full: as many as it runs is then
// the limit. While nobody waits, the limit grows, at first as fast as it is reached: an engine that nothing is known of
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
}

/** Requests at once on an engine that nothing is known of. */
const FIRST_LIMIT = 32;
/** Beyond this the limit is none. */
const MAX_LIMIT = 1_024;

export class SlotLimit {
  /** Undefined for none. */
  #limit: number | undefined = FIRST_LIMIT;
  #learned = false;

  /** @param configured What the configuration says; then nothing is learned. */
  constructor(public configured: number | undefined) {}

  /** Whether so many requests come near a limit that may still be far below what the engine can do. */
  pressed(requests: number): boolean {
    const growing = this.configured === undefined && !this.#learned && this.#limit !== undefined;
    return growing && requests >= this.#limit! / 4;
  }

  /** Takes a reading; returns the most requests of this gateway, undefined for no limit. */
  observe({ waiting, running, remote, prefilling }: SlotReading): number | undefined {
    if (this.configured !== undefined) return Math.max(1, this.configured - remote);
    if (waiting === undefined || running === undefined) this.#limit = undefined;
    else if (waiting > 0 && running > 0) {
      if (!prefilling) {
        this.#limit = running;
        this.#learned = true;
      }
    } else if (this.#limit !== undefined && running >= this.#limit / 2) {
      this.#limit = this.#learned ? this.#limit + 1 : this.#limit * 2;
      if (this.#limit > MAX_LIMIT) this.#limit = undefined;
    }
    return this.#limit === undefined ? undefined : Math.max(1, this.#limit - remote);
  }

  /** The engine was restarted, maybe with other options. */
  forget(): void {
    this.#limit = FIRST_LIMIT;
    this.#learned = false;
  }
}
