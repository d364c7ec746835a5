// SPDX-License-Identifier: Apache-2.0
// What an operator would want to know, said once: engines that find prompts in their caches and do not say so in their
// answers teach the gateway to expect too long prefills.

import type { AttachedKernel } from "../../wasm/kernel.ts";
import { allCells } from "../tables/metric_cells.ts";
import type { CellLayout } from "../telemetry/cells.ts";
import { cachedTokens } from "../telemetry/readings.ts";
import type { Log } from "../telemetry/log.ts";

/** Answers with usage after which it is clear that none tells its cached tokens. */
const ENOUGH_ANSWERS = 20;

export class CachedTokensHint {
  readonly #workers: readonly Float64Array[];
  #said = false;

  constructor(kernel: AttachedKernel, readonly layout: CellLayout, readonly log: Log) {
    this.#workers = allCells(kernel);
  }

  /** An engine tells how many prompt tokens it found in its prefix cache. */
  found(hit: number, { cluster, name }: { cluster: string; name: string }): void {
    if (this.#said || hit === 0) return;
    const { answers, cached } = cachedTokens(this.#workers, this.layout);
    if (answers < ENOUGH_ANSWERS) return;
    this.#said = true;
    if (cached > 0) return;
    this.log.warn(
      "engines find prompts in their caches, and their answers do not tell it: vLLM tells cached_tokens with --enable-prompt-tokens-details",
      {
        cluster,
        endpoint: name,
      },
    );
  }
}
