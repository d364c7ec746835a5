// SPDX-License-Identifier: Apache-2.0
// The owner of the registries: which row of the shared memory is whose. A configuration that comes into force takes the
// rows of its names; those of names that have gone are freed when no worker uses an older snapshot any more.

import type { AttachedKernel } from "../../wasm/kernel.ts";
import { type Config, tenantRows } from "../config/schema.ts";
import type { SnapshotRows } from "../config/snapshot.ts";
import { labelSetsOf } from "../scheduler/eligibility.ts";
import { FreeRows, Registry, RegistryFull, type RowSource } from "../tables/registry.ts";

/** What becomes of a row before another name gets it; false while something is still on it. */
export interface RowCleaner {
  cluster(row: number, name: string): boolean;
  model(row: number, name: string): boolean;
  tenant(row: number, name: string): boolean;
}

/** The tenant row of those without a key. */
export const ANONYMOUS_ROW = 0;

export class Rows {
  readonly clusters: Registry;
  readonly models: Registry;
  readonly tenants: Registry;
  /** Of each cluster: label sets to eligibility bits. */
  readonly #labels = new Map<string, Registry>();
  readonly #firstLabelBit: number;
  /** Rows of tenants that are not configured begin here. */
  readonly firstOther: number;
  readonly tenantRows: number;

  constructor({ exports: k }: AttachedKernel, limits: Config["limits"]) {
    this.clusters = new Registry("clusters (limits.clusters)", new FreeRows(0, limits.clusters));
    this.models = new Registry("models (limits.models)", new FreeRows(0, limits.models));
    const { others } = tenantRows(limits.tenants);
    this.firstOther = others;
    this.tenantRows = limits.tenants;
    this.tenants = new Registry("tenants (limits.tenants)", new FreeRows(ANONYMOUS_ROW + 1, others));
    this.#firstLabelBit = k.LABEL_BITS;
  }

  /** Gives every name of a configuration its row. Throws RegistryFull; then nothing has changed. */
  take(config: Config): SnapshotRows {
    const taken: (() => void)[] = [];
    const acquire = (registry: Registry, name: string): void => {
      if (registry.inUse(name)) return;
      const retired = registry.retiredAt(name);
      registry.acquire(name);
      taken.push(() => registry.retire(name, retired ?? 0));
    };
    try {
      for (const { name } of config.clusters) {
        acquire(this.clusters, name);
        const sets = this.#labelsOf(name);
        for (const key of labelSetsOf(config, name).keys()) acquire(sets, key);
      }
      for (const name of Object.keys(config.model_mapping_rule)) acquire(this.models, name);
      for (const { name } of config.tenants) acquire(this.tenants, name);
    } catch (error) {
      if (error instanceof RegistryFull) { for (const undo of taken) undo(); }
      throw error;
    }
    return {
      clusters: pick(this.clusters, config.clusters.map(({ name }) => name)),
      models: pick(this.models, Object.keys(config.model_mapping_rule)),
      tenants: new Map([["anonymous", ANONYMOUS_ROW], ...pick(this.tenants, config.tenants.map(({ name }) => name))]),
      labels: new Map(config.clusters.map(({ name }) => [
        name,
        pick(this.#labelsOf(name), [...labelSetsOf(config, name).keys()]),
      ])),
    };
  }

  /** Retires what a snapshot of this version has no more. */
  retire({ clusters, models, tenants, labels }: SnapshotRows, version: number): void {
    retireOthers(this.clusters, clusters, version);
    retireOthers(this.models, models, version);
    retireOthers(this.tenants, tenants, version);
    for (const [cluster, sets] of this.#labels) retireOthers(sets, labels.get(cluster) ?? new Map(), version);
  }

  /** Frees what nobody holds any more; `oldest` is the oldest snapshot in use. */
  reclaim(oldest: number, cleaner: RowCleaner): void {
    this.models.reclaim(oldest, cleaner.model);
    this.tenants.reclaim(oldest, cleaner.tenant);
    for (const sets of this.#labels.values()) sets.reclaim(oldest, () => true);
    for (const name of this.clusters.reclaim(oldest, cleaner.cluster)) this.#labels.delete(name);
  }

  /** Every bit that a label set of a cluster has, those of sets that some request may still ask for included. */
  labelBits(cluster: string): Map<string, number> {
    return new Map([...this.#labelsOf(cluster).all].map(([key, { row }]) => [key, row]));
  }

  #labelsOf(cluster: string): Registry {
    let sets = this.#labels.get(cluster);
    if (!sets) {
      sets = new Registry(`label sets of cluster "${cluster}"`, new FreeBits(this.#firstLabelBit));
      this.#labels.set(cluster, sets);
    }
    return sets;
  }
}

/** The bits of an eligibility word that label sets may have, as masks. */
class FreeBits implements RowSource {
  readonly #bits: FreeRows;

  constructor(first: number) {
    this.#bits = new FreeRows(first, 32);
  }

  get size(): number {
    return this.#bits.size;
  }

  take(): number | undefined {
    const bit = this.#bits.take();
    return bit === undefined ? undefined : 1 << bit;
  }

  give(mask: number): void {
    this.#bits.give(31 - Math.clz32(mask));
  }
}

function pick(registry: Registry, names: readonly string[]): Map<string, number> {
  return new Map(names.map((name) => [name, registry.get(name)!.row]));
}

function retireOthers(registry: Registry, kept: ReadonlyMap<string, number>, version: number): void {
  for (const name of registry.rows().keys()) if (!kept.has(name)) registry.retire(name, version);
}
