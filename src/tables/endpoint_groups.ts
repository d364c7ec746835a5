// SPDX-License-Identifier: Apache-2.0
// Which rows of the endpoint table are whose: clusters have lists of groups of 16 rows, linked through words in the shared
// memory that every thread reads. The control plane alone changes them. Free rows and groups are used again the longest
// free one first.

import type { AttachedKernel } from "../../wasm/kernel.ts";

export class EndpointGroups {
  readonly #kernel: AttachedKernel;
  readonly #words: Int32Array;
  readonly #rows: number;
  readonly #workers: number;
  readonly #freeGroups: number[] = [];
  readonly #freeRows = new Map<number, number[]>();
  /** Groups of clusters that are gone, until no worker reads these any more. */
  readonly #resting: { cluster: number; groups: number[] }[] = [];

  constructor(kernel: AttachedKernel) {
    this.#kernel = kernel;
    this.#words = new Int32Array(kernel.buffer);
    this.#rows = this.#words[kernel.exports.HEADER_ENDPOINTS];
    this.#workers = this.#words[kernel.exports.HEADER_WORKERS];
    for (let group = 0; group < this.#rows / kernel.exports.GROUP_ROWS; group++) this.#freeGroups.push(group);
  }

  /** Numbers of a cluster's groups, in list order. */
  of(cluster: number): number[] {
    const k = this.#kernel.exports;
    const groups: number[] = [];
    let group = this.#words[(k.clusterOffset(cluster) + k.CLUSTER_FIRST_GROUP) >>> 2];
    while (group !== 0) {
      groups.push(--group);
      group = this.#words[k.nextGroupOffset(group) >>> 2];
    }
    return groups;
  }

  /** Takes an unused row for a cluster. Throws RangeError when limits.endpoints is used up. */
  take(cluster: number): number {
    const k = this.#kernel.exports;
    const free = this.#freeOf(cluster);
    const row = free.shift();
    if (row !== undefined) return row;
    this.#wakeGroups();
    const group = this.#freeGroups.shift();
    if (group === undefined) {
      throw new RangeError(`No row is left for an endpoint: limits.endpoints is ${this.#rows}`);
    }
    for (let lane = 1; lane < k.GROUP_ROWS; lane++) free.push(group * k.GROUP_ROWS + lane);
    this.#link(cluster, group);
    return group * k.GROUP_ROWS;
  }

  /** Gives an unused row back to its cluster. */
  free(cluster: number, row: number): void {
    this.#freeOf(cluster).push(row);
  }

  #freeOf(cluster: number): number[] {
    const free = this.#freeRows.get(cluster) ?? [];
    this.#freeRows.set(cluster, free);
    return free;
  }

  // Appends a group to the cluster's list: its own fields first, then the one word that makes it visible.
  #link(cluster: number, group: number): void {
    const k = this.#kernel.exports;
    const head = k.clusterOffset(cluster) >>> 2;
    const groups = this.#words[head + (k.CLUSTER_GROUPS >>> 2)];
    this.#words[k.nextGroupOffset(group) >>> 2] = 0;
    this.#words[k.ordinalOffset(group) >>> 2] = groups;
    this.#words[head + (k.CLUSTER_GROUPS >>> 2)] = groups + 1;
    let link = head + (k.CLUSTER_FIRST_GROUP >>> 2);
    while (this.#words[link] !== 0) link = k.nextGroupOffset(this.#words[link] - 1) >>> 2;
    Atomics.store(this.#words, link, group + 1);
  }

  /**
   * Takes all groups from a cluster. A worker that is reading its list comes to the end in the group that it is at, and the
   * groups rest until it has: nobody who began with this cluster gets to another one's rows.
   */
  remove(cluster: number): void {
    const k = this.#kernel.exports;
    const head = k.clusterOffset(cluster);
    const groups = this.of(cluster);
    Atomics.store(this.#words, (head + k.CLUSTER_FIRST_GROUP) >>> 2, 0);
    for (const group of groups) Atomics.store(this.#words, k.nextGroupOffset(group) >>> 2, 0);
    this.#words[(head + k.CLUSTER_GROUPS) >>> 2] = 0;
    this.#freeRows.delete(cluster);
    this.#resting.push({ cluster, groups });
    this.#wakeGroups();
  }

  // Groups that nobody reads any more are free.
  #wakeGroups(): void {
    const resting = this.#resting.splice(0);
    for (const { cluster, groups } of resting) {
      if (this.#isRead(cluster)) this.#resting.push({ cluster, groups });
      else this.#freeGroups.push(...groups);
    }
  }

  #isRead(cluster: number): boolean {
    const k = this.#kernel.exports;
    for (let worker = 0; worker < this.#workers; worker++) {
      if (Atomics.load(this.#words, (k.ringOffset(worker) + k.RING_WALKING) >>> 2) === cluster + 1) return true;
    }
    return false;
  }
}
