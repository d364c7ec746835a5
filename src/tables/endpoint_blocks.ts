// SPDX-License-Identifier: Apache-2.0
// Which rows of the endpoint table are whose: clusters have lists of blocks of 16 rows, linked through words in the shared
// memory that every thread reads. The control plane alone changes them. Free rows and blocks are used again the longest
// free one first.

import type { AttachedKernel } from "../../wasm/kernel.ts";

export class EndpointBlocks {
  readonly #kernel: AttachedKernel;
  readonly #words: Int32Array;
  readonly #rows: number;
  readonly #workers: number;
  readonly #freeBlocks: number[] = [];
  readonly #freeRows = new Map<number, number[]>();
  /** Blocks of clusters that are gone, until no worker reads these any more. */
  readonly #resting: { cluster: number; blocks: number[] }[] = [];

  constructor(kernel: AttachedKernel) {
    this.#kernel = kernel;
    this.#words = new Int32Array(kernel.buffer);
    this.#rows = this.#words[kernel.exports.HEADER_ENDPOINTS];
    this.#workers = this.#words[kernel.exports.HEADER_WORKERS];
    for (let block = 0; block < this.#rows / kernel.exports.BLOCK_ROWS; block++) this.#freeBlocks.push(block);
  }

  /** Numbers of a cluster's blocks, in list order. */
  of(cluster: number): number[] {
    const k = this.#kernel.exports;
    const blocks: number[] = [];
    let block = this.#words[(k.clusterOffset(cluster) + k.CLUSTER_FIRST_BLOCK) >>> 2];
    while (block !== 0) {
      blocks.push(--block);
      block = this.#words[k.nextBlockOffset(block) >>> 2];
    }
    return blocks;
  }

  /** Takes an unused row for a cluster. Throws RangeError when limits.endpoints is used up. */
  take(cluster: number): number {
    const k = this.#kernel.exports;
    const free = this.#freeOf(cluster);
    const row = free.shift();
    if (row !== undefined) return row;
    this.#wakeBlocks();
    const block = this.#freeBlocks.shift();
    if (block === undefined) {
      throw new RangeError(`No row is left for an endpoint: limits.endpoints is ${this.#rows}`);
    }
    for (let lane = 1; lane < k.BLOCK_ROWS; lane++) free.push(block * k.BLOCK_ROWS + lane);
    this.#link(cluster, block);
    return block * k.BLOCK_ROWS;
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

  // Appends a block to the cluster's list: its own fields first, then the one word that makes it visible.
  #link(cluster: number, block: number): void {
    const k = this.#kernel.exports;
    const head = k.clusterOffset(cluster) >>> 2;
    const blocks = this.#words[head + (k.CLUSTER_BLOCKS >>> 2)];
    this.#words[k.nextBlockOffset(block) >>> 2] = 0;
    this.#words[k.ordinalOffset(block) >>> 2] = blocks;
    this.#words[head + (k.CLUSTER_BLOCKS >>> 2)] = blocks + 1;
    let link = head + (k.CLUSTER_FIRST_BLOCK >>> 2);
    while (this.#words[link] !== 0) link = k.nextBlockOffset(this.#words[link] - 1) >>> 2;
    Atomics.store(this.#words, link, block + 1);
  }

  /**
   * Takes all blocks from a cluster. A worker that is reading its list comes to the end in the block that it is at, and the
   * blocks rest until it has: nobody who began with this cluster gets to another one's rows.
   */
  remove(cluster: number): void {
    const k = this.#kernel.exports;
    const head = k.clusterOffset(cluster);
    const blocks = this.of(cluster);
    Atomics.store(this.#words, (head + k.CLUSTER_FIRST_BLOCK) >>> 2, 0);
    for (const block of blocks) Atomics.store(this.#words, k.nextBlockOffset(block) >>> 2, 0);
    this.#words[(head + k.CLUSTER_BLOCKS) >>> 2] = 0;
    this.#freeRows.delete(cluster);
    this.#resting.push({ cluster, blocks });
    this.#wakeBlocks();
  }

  // Blocks that nobody reads any more are free.
  #wakeBlocks(): void {
    const resting = this.#resting.splice(0);
    for (const { cluster, blocks } of resting) {
      if (this.#isRead(cluster)) this.#resting.push({ cluster, blocks });
      else this.#freeBlocks.push(...blocks);
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
