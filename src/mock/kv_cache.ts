// SPDX-License-Identifier: Apache-2.0
// An engine's KV cache in blocks: blocks in use are counted, blocks out of use stay findable by their prefix hash until
// they are needed, the one released longest ago first.

/** Key of a block: a hash of the whole prefix that ends with it. */
export type BlockKey = number | string;

/** What one sequence holds. */
export interface Allocation {
  keys: readonly BlockKey[];
  /** Blocks without a key: generated tokens. */
  anonymous: number;
  /** Leading blocks that were found. */
  hits: number;
}

/** Is told what comes into a cache and goes out of it. */
export interface CacheListener {
  /** Blocks `from` to before `to` of a prompt are there from now on. */
  stored(keys: readonly BlockKey[], from: number, to: number): void;
  removed(keys: readonly BlockKey[]): void;
  cleared(): void;
}

export class KvCache {
  listener: CacheListener | undefined;
  /** References to each block in use. */
  readonly #used = new Map<BlockKey, number>();
  /** Blocks out of use in order of release: Map keeps insertion order. */
  readonly #idle = new Map<BlockKey, true>();
  #anonymous = 0;
  queries = 0;
  hits = 0;

  constructor(readonly capacity: number) {}

  get inUse(): number {
    return this.#used.size + this.#anonymous;
  }

  /** Leading blocks of a prompt that are there. */
  match(keys: readonly BlockKey[]): number {
    let n = 0;
    while (n < keys.length && (this.#used.has(keys[n]) || this.#idle.has(keys[n]))) n++;
    return n;
  }

  /** Takes the blocks of a prompt and `anonymous` more; undefined when there is no room now. */
  allocate(keys: readonly BlockKey[], anonymous: number): Allocation | undefined {
    const hits = this.match(keys);
    let fresh = anonymous;
    for (const key of keys) if (!this.#used.has(key)) fresh++;
    if (this.inUse + fresh > this.capacity) return undefined;
    const missing = this.listener && this.#missing(keys);
    for (const key of keys) {
      this.#idle.delete(key);
      this.#used.set(key, (this.#used.get(key) ?? 0) + 1);
    }
    this.#anonymous += anonymous;
    this.#evict();
    for (const [from, to] of missing ?? []) this.listener!.stored(keys, from, to);
    this.queries += keys.length;
    this.hits += hits;
    return { keys, anonymous, hits };
  }

  /** Takes one more block for an allocation; false when all are in use. */
  grow(allocation: Allocation): boolean {
    if (this.inUse >= this.capacity) return false;
    allocation.anonymous++;
    this.#anonymous++;
    this.#evict();
    return true;
  }

  // Of the blocks out of use, those released longest ago go until all there are fit.
  #evict(): void {
    const removed: BlockKey[] = [];
    while (this.inUse + this.#idle.size > this.capacity) {
      const oldest = this.#idle.keys().next();
      if (oldest.done) break;
      this.#idle.delete(oldest.value);
      removed.push(oldest.value);
    }
    if (removed.length > 0) this.listener?.removed(removed);
  }

  // Runs of blocks that are not there.
  #missing(keys: readonly BlockKey[]): [number, number][] {
    const runs: [number, number][] = [];
    keys.forEach((key, i) => {
      if (this.#used.has(key) || this.#idle.has(key)) return;
      const last = runs.at(-1);
      if (last?.[1] === i) last[1]++;
      else runs.push([i, i + 1]);
    });
    return runs;
  }

  /** Gives up what is not in use. */
  clear(): void {
    const keys = [...this.#idle.keys()];
    this.#idle.clear();
    if (this.#used.size === 0) this.listener?.cleared();
    else this.listener?.removed(keys);
  }

  /** Gives an allocation back; its keyed blocks stay findable, the end of the prompt going first. */
  release({ keys, anonymous }: Allocation): void {
    for (let i = keys.length - 1; i >= 0; i--) {
      const references = this.#used.get(keys[i])! - 1;
      if (references > 0) this.#used.set(keys[i], references);
      else {
        this.#used.delete(keys[i]);
        this.#idle.set(keys[i], true);
      }
    }
    this.#anonymous -= anonymous;
  }
}
