// SPDX-License-Identifier: Apache-2.0
// Requests for models that nobody knows, as the workers count them: engines may have got such a model in the meantime.

import type { AttachedKernel } from "../../wasm/kernel.ts";
import { allCells } from "../tables/metric_cells.ts";
import { WORKER_CELLS } from "../telemetry/cells.ts";

export class UnknownModels {
  readonly #cells: Float64Array[];
  #seen = 0;

  constructor(kernel: AttachedKernel) {
    this.#cells = allCells(kernel);
  }

  /** Whether there were such requests since the last time. */
  get wanted(): boolean {
    const before = this.#seen;
    this.#seen = this.#cells.reduce((sum, cells) => sum + cells[WORKER_CELLS.unknownModels], 0);
    return this.#seen !== before;
  }
}
