// SPDX-License-Identifier: Apache-2.0
// A queue between a source that is told things and the loop that watches it.

import type { Update } from "./discovery.ts";

export class Updates {
  #queue: Update[] = [];
  #wake: (() => void) | undefined;

  push(...updates: readonly Update[]): void {
    this.#queue.push(...updates);
    this.#wake?.();
  }

  /** Everything that is pushed, until the signal aborts. One reader at a time. */
  async *read(signal: AbortSignal): AsyncGenerator<Update> {
    const wake = (): void => this.#wake?.();
    signal.addEventListener("abort", wake);
    try {
      while (!signal.aborted) {
        const queue = this.#queue;
        this.#queue = [];
        yield* queue;
        if (this.#queue.length > 0 || signal.aborted) continue;
        await new Promise<void>((resolve) => this.#wake = resolve);
        this.#wake = undefined;
      }
    } finally {
      signal.removeEventListener("abort", wake);
    }
  }
}
