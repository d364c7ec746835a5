// SPDX-License-Identifier: Apache-2.0
// Which engines hold which prefixes, by cluster, bounded over all of them.

import { type EngineAddress, engineKey } from "./engine_address.ts";

export interface CacheLocation extends EngineAddress {
  /** Leading chunks held. */
  length: number;
}

/** Holders of each prefix hash, in order of their last save. */
type Prefixes = Map<bigint, Map<string, EngineAddress>>;

const EMPTY: Prefixes = new Map();

export class PrefixHolders {
  readonly #clusters = new Map<string, Prefixes>();
  #count = 0;

  /** Past `most` hashes, the oldest of the cluster with most of them go first. */
  constructor(readonly most: number) {}

  save(cluster: string, { host, ip, port }: EngineAddress, hashes: readonly bigint[]): void {
    let prefixes = this.#clusters.get(cluster);
    if (!prefixes) this.#clusters.set(cluster, prefixes = new Map());
    const key = engineKey({ host, port });
    for (const hash of hashes) {
      const holders = prefixes.get(hash);
      // Deleted and set again: a Map keeps the order of insertion, so its beginning is what was saved longest ago.
      if (holders) prefixes.delete(hash);
      else this.#count++;
      prefixes.set(hash, (holders ?? new Map()).set(key, { host, ip, port }));
    }
    this.#evict();
  }

  // The cluster with most prefixes gives up its oldest: a busy one takes nothing from those that have less than it.
  #evict(): void {
    while (this.#count > this.most) {
      let [largest, second] = [EMPTY, 0];
      for (const prefixes of this.#clusters.values()) {
        if (prefixes.size > largest.size) [largest, second] = [prefixes, largest.size];
        else second = Math.max(second, prefixes.size);
      }
      for (const oldest of largest.keys()) {
        largest.delete(oldest);
        this.#count--;
        if (this.#count <= this.most || largest.size < second) break;
      }
    }
  }

  /** The engines that hold beginnings of a prompt, given by the hashes of its beginnings; longest first. */
  query(cluster: string, hashes: readonly bigint[]): CacheLocation[] {
    const prefixes = this.#clusters.get(cluster) ?? EMPTY;
    const lengths = new Map<string, CacheLocation>();
    for (let i = 0; i < hashes.length; i++) {
      let longer = false;
      for (const [key, engine] of prefixes.get(hashes[i]) ?? []) {
        if ((lengths.get(key)?.length ?? 0) !== i) continue;
        lengths.set(key, { ...engine, length: i + 1 });
        longer = true;
      }
      if (!longer) break;
    }
    return [...lengths.values()].sort((a, b) => b.length - a.length);
  }

  /** Whether it knows anything of a cluster. */
  has(cluster: string): boolean {
    return (this.#clusters.get(cluster)?.size ?? 0) > 0;
  }

  forget(cluster: string): void {
    this.#count -= this.#clusters.get(cluster)?.size ?? 0;
    this.#clusters.delete(cluster);
  }
}
