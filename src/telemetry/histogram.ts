// SPDX-License-Identifier: Apache-2.0
// A histogram of the control plane's own; those of requests are cells in the shared memory (metric_cells.ts).

import type { HistogramValues } from "./prometheus.ts";

export class Histogram implements HistogramValues {
  readonly counts: number[];
  sum = 0;
  constructor(readonly bounds: readonly number[]) {
    this.counts = new Array(bounds.length + 1).fill(0);
  }
  observe(value: number): void {
    let bucket = 0;
    while (bucket < this.bounds.length && value > this.bounds[bucket]) bucket++;
    this.counts[bucket]++;
    this.sum += value;
  }
}
