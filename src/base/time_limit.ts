// SPDX-License-Identifier: Apache-2.0
// A signal that aborts when a parent does or when time is up. In place of AbortSignal.any and AbortSignal.timeout, whose
// combination this runtime may collect as garbage while a request still waits for it.

export class TimeLimit implements Disposable {
  readonly #controller = new AbortController();
  readonly #parent: AbortSignal;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(parent: AbortSignal, ms: number) {
    this.#parent = parent;
    if (parent.aborted) this.#abort();
    parent.addEventListener("abort", this.#abort);
    this.renew(ms);
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** Starts the time anew. */
  renew(ms: number): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(this.#abort, ms);
  }

  readonly #abort = (): void => this.#controller.abort();

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
    this.#parent.removeEventListener("abort", this.#abort);
  }
}
