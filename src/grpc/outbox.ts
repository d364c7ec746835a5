// SPDX-License-Identifier: Apache-2.0
// What is to leave on a connection: frames are gathered, and leave in one write when everything that one read brought has
// been dealt with.

import { writeFully } from "../upstream/send_buffers.ts";
import { FrameWriter } from "./frames.ts";

export class Outbox {
  readonly frames = new FrameWriter();
  #scheduled = false;
  #flushing: Promise<void> | undefined;
  #closed = false;

  /** @param failed The peer is gone. */
  constructor(readonly socket: Deno.Conn, readonly failed: () => void) {}

  /** Has what was written leave soon. */
  soon(): void {
    if (this.#scheduled || this.#flushing) return;
    this.#scheduled = true;
    queueMicrotask(() => {
      this.#scheduled = false;
      this.flush();
    });
  }

  /** Resolves when all of it has left, or the peer is gone. */
  flush(): Promise<void> {
    return this.#flushing ??= this.#write().finally(() => {
      this.#flushing = undefined;
      // What was written between the last look and now.
      if (this.frames.bytes > 0 && !this.#closed) this.soon();
    });
  }

  async #write(): Promise<void> {
    try {
      while (this.frames.bytes > 0 && !this.#closed) {
        const bytes = this.frames.take();
        await writeFully(this.socket, bytes, bytes.length);
        this.frames.giveBack(bytes);
      }
    } catch {
      this.failed();
    }
  }

  close(): void {
    this.#closed = true;
  }
}
