// SPDX-License-Identifier: Apache-2.0
// When something last came from an endpoint: a token or an answer, through any worker, or metrics that say that it
// computes. Beside it, whether its metrics say that at all.

import type { AttachedKernel } from "../../wasm/kernel.ts";

/** Sixteenths of a ms: above it the time since is that of a worker whose clock is ahead, by up to 65 s. */
const AHEAD = 0xfff0_0000;

export class EndpointPulse {
  readonly #words: Int32Array;
  readonly #heard: number;
  readonly #tells: number;

  constructor({ exports: k, buffer }: AttachedKernel) {
    this.#words = new Int32Array(buffer);
    this.#heard = k.columnOffset(k.ENDPOINT_HEARD) >>> 2;
    this.#tells = k.columnOffset(k.ENDPOINT_TELLS) >>> 2;
  }

  /** Something came from it now, in shared ms. */
  hear(row: number, sharedMs: number): void {
    this.#words[this.#heard + row] = stampOf(sharedMs);
  }

  /** Ms since something came from it, modulo 74 hours. */
  silentMs(row: number, sharedMs: number): number {
    const passed = (stampOf(sharedMs) - this.#words[this.#heard + row]) >>> 0;
    return passed > AHEAD ? 0 : passed / 16;
  }

  /** Whether its metrics tell that it computes, so that a silence of its answers alone says nothing. */
  tells(row: number): boolean {
    return this.#words[this.#tells + row] === 1;
  }

  setTells(row: number): void {
    this.#words[this.#tells + row] = 1;
  }
}

// 1/16 ms modulo 2^32; a double holds all bits of today's times.
function stampOf(sharedMs: number): number {
  return Math.floor(sharedMs * 16) % 4_294_967_296 | 0;
}
