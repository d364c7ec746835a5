// SPDX-License-Identifier: Apache-2.0
// Tells a worker that others have granted endpoints to its waiting requests: one futex word a worker, so that any number of
// requests wait on one promise.

import type { AttachedKernel } from "../../wasm/kernel.ts";

export class GrantWatch {
  readonly #words: Int32Array;
  readonly #word: number;

  constructor({ exports: k, buffer, worker }: AttachedKernel) {
    this.#words = new Int32Array(buffer);
    this.#word = (k.ringOffset(worker) + k.RING_GRANTS) >>> 2;
  }

  /** Changes with every grant, modulo 2^32. */
  get count(): number {
    return Atomics.load(this.#words, this.#word);
  }

  /** Resolves when another worker has granted after this count was read; and after `wake`. */
  async changed(count: number): Promise<void> {
    const wait = Atomics.waitAsync(this.#words, this.#word, count);
    if (wait.async) await wait.value;
  }

  /** Lets whoever waits here go. */
  wake(): void {
    Atomics.notify(this.#words, this.#word);
  }
}
