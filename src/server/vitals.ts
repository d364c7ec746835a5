// SPDX-License-Identifier: Apache-2.0
// What a worker publishes of itself with every heartbeat, and whether it is overloaded.

import v8 from "node:v8";
import { WORKER_CELLS } from "../telemetry/cells.ts";
import type { Instruments } from "../telemetry/instruments.ts";

/** Counts that others keep, by the cell in which they are told; they only grow while the worker lasts. */
export type KeptCounts = ReadonlyMap<number, number>;

/** Recurring work wakes a worker this often at most; how late it is then is its event loop's delay. */
export const TICK_MS = 50;

export class Vitals {
  readonly #instruments: Instruments;
  readonly #told = new Map<number, number>();
  #loopDelayMs = 0;

  constructor(instruments: Instruments) {
    this.#instruments = instruments;
  }

  /** Says that the worker is alive. @param memory Whether the resident memory is measured too, which costs a system call. */
  beat(counts: KeptCounts, memory: boolean): void {
    const { cells } = this.#instruments;
    cells[WORKER_CELLS.heartbeat]++;
    for (const [cell, count] of counts) this.#grow(cell, count);
    const heap = v8.getHeapStatistics() as v8.HeapInfo & { total_allocated_bytes?: number };
    cells[WORKER_CELLS.heapUsed] = heap.used_heap_size;
    this.#grow(WORKER_CELLS.allocated, heap.total_allocated_bytes ?? 0);
    cells[WORKER_CELLS.memory] = memory ? Deno.memoryUsage().rss : 0;
  }

  // The cell goes on from where another worker of the same area left it.
  #grow(cell: number, count: number): void {
    this.#instruments.cells[cell] += count - (this.#told.get(cell) ?? 0);
    this.#told.set(cell, count);
  }

  /** How much later than asked a timer fired. */
  late(ms: number): void {
    this.#loopDelayMs = Math.max(ms, this.#loopDelayMs / 2);
    this.#instruments.loopDelay(ms / 1_000);
  }

  /** Why no request should be begun, for its error; undefined when one may. */
  overloaded(limits: { readonly loop_delay_ms: number; readonly memory_bytes: number }): string | undefined {
    const late = this.#loopDelayMs;
    if (late > limits.loop_delay_ms) return `its event loop is ${Math.round(late)} ms late`;
    if (limits.memory_bytes > 0 && this.#instruments.cells[WORKER_CELLS.memory] > limits.memory_bytes) {
      return `its memory is above ${limits.memory_bytes} bytes`;
    }
  }
}
