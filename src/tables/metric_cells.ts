// SPDX-License-Identifier: Apache-2.0
// Metric cells: each worker writes f64 counters into an area of its own, the control plane adds the areas up. No message
// and no lock on the request path: an increment is one load and one store.

import type { AttachedKernel } from "../../wasm/kernel.ts";

/** Cell with the highest request row that a worker has used: how far the control plane has to look. */
export const HIGH_ROW_CELL = 6;

/** The area that this thread writes. */
export function ownCells(kernel: AttachedKernel): Float64Array {
  return cellsOf(kernel, kernel.worker);
}

/** The areas of all threads. */
export function allCells(kernel: AttachedKernel): Float64Array[] {
  const workers = new Int32Array(kernel.buffer)[kernel.exports.HEADER_WORKERS];
  return Array.from({ length: workers }, (_, worker) => cellsOf(kernel, worker));
}

/** Sum of one cell over all workers. */
export function sumCells(kernel: AttachedKernel): Float64Array {
  const words = new Int32Array(kernel.buffer);
  const workers = words[kernel.exports.HEADER_WORKERS];
  const total = new Float64Array(words[kernel.exports.HEADER_CELLS]);
  for (let worker = 0; worker < workers; worker++) {
    const cells = cellsOf(kernel, worker);
    for (let i = 0; i < total.length; i++) total[i] += cells[i];
  }
  return total;
}

/** Sets cells of one area to 0: what they told of its worker ended with it. Control plane only. */
export function clearOwn(kernel: AttachedKernel, worker: number, cells: readonly number[]): void {
  const all = cellsOf(kernel, worker);
  for (const cell of cells) all[cell] = 0;
}

/** One cell of one worker. */
export function readCell(kernel: AttachedKernel, worker: number, cell: number): number {
  return cellsOf(kernel, worker)[cell];
}

/** Sets cells of every worker to 0: their row becomes another name's. Control plane only, when no worker counts there. */
export function clearCells(kernel: AttachedKernel, first: number, count: number): void {
  const workers = new Int32Array(kernel.buffer)[kernel.exports.HEADER_WORKERS];
  for (let worker = 0; worker < workers; worker++) cellsOf(kernel, worker).fill(0, first, first + count);
}

function cellsOf(kernel: AttachedKernel, worker: number): Float64Array {
  const count = new Int32Array(kernel.buffer)[kernel.exports.HEADER_CELLS];
  return new Float64Array(kernel.buffer, kernel.exports.metricOffset(worker), count);
}
