// SPDX-License-Identifier: Apache-2.0
// A streamed answer on its way out. The source is asked for its next piece when all before it has been written; what has
// gathered meanwhile leaves in one write, the head with the first piece and the end with the last.

import { writeHead } from "../../upstream/request_head.ts";
import type { StreamController, StreamSource } from "../http/exchange.ts";
import { borrow, giveBack, SEND_BYTES, writeFully } from "../../upstream/send_buffers.ts";

const encoder = new TextEncoder();
const CRLF = encoder.encode("\r\n");
const LAST_CHUNK = encoder.encode("0\r\n\r\n");

export class AnswerStream implements StreamController {
  #queue: Uint8Array[] = [];
  #queued = 0;
  #head: string;
  #writing = false;
  #pulling = false;
  /** Whether a look at what there is to write has been asked for. */
  #asked = false;
  #closed = false;
  /** Whether the last byte of the answer is on its way. */
  #last = false;
  #over = false;
  /** What is being written. */
  #buffer: Uint8Array<ArrayBuffer> | undefined;
  #length = 0;
  readonly #done = Promise.withResolvers<boolean>();

  /**
   * @param chunked Whether it goes in chunks; else as it is.
   * @param takesComments Whether it is of events, between which comments may stand.
   */
  constructor(
    readonly socket: Deno.Conn,
    readonly source: StreamSource,
    head: string,
    readonly chunked: boolean,
    readonly takesComments: boolean,
  ) {
    this.#head = head;
  }

  /** Sends it; resolves with whether all of it has been written. */
  send(): Promise<boolean> {
    this.source.start?.(this);
    this.#pump();
    return this.#done.promise;
  }

  get desiredSize(): number {
    return this.#writing || this.#queue.length > 0 ? -1 : 0;
  }

  enqueue(piece: Uint8Array): void {
    if (this.#closed || piece.length === 0) return;
    this.#queue.push(piece);
    this.#queued += piece.length;
    this.#ask();
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#ask();
  }

  /** The connection has to be cut. */
  error(): void {
    this.#closed = true;
    this.#end(false);
  }

  /** The client left. */
  cancel(): void {
    if (this.#over) return;
    this.error();
    this.source.cancel();
  }

  #end(whole: boolean): void {
    if (this.#over) return;
    this.#over = true;
    this.#done.resolve(whole);
  }

  // Not at once: what is handed on in one go, and its end, is written in one go.
  #ask(): void {
    if (this.#asked || this.#writing) return;
    this.#asked = true;
    queueMicrotask(this.#look);
  }

  readonly #look = (): void => {
    this.#asked = false;
    this.#pump();
  };

  #pump(): void {
    if (this.#writing || this.#over) return;
    if (this.#queue.length === 0 && !this.#closed && !this.#pulling) this.#pull();
    if (this.#over || (this.#queue.length === 0 && this.#head === "" && !this.#closed)) return;
    this.#writing = true;
    this.#flush();
  }

  readonly #flushed = (): void => {
    this.#writing = false;
    if (this.#last) this.#end(true);
    else this.#pump();
  };

  // All of it has been taken, nearly always.
  readonly #wrote = (written: number): void => {
    const buffer = this.#buffer!;
    if (written < this.#length) {
      writeFully(this.socket, buffer.subarray(written), this.#length - written).then(this.#flushed, this.#failed);
      return;
    }
    this.#buffer = undefined;
    giveBack(buffer);
    this.#flushed();
  };

  readonly #failed = (): void => this.cancel();

  #pull(): void {
    this.#pulling = true;
    const pulled = this.source.pull(this);
    if (pulled instanceof Promise) pulled.then(this.#pulled, () => this.error());
    else this.#pulling = false;
  }

  readonly #pulled = (): void => {
    this.#pulling = false;
    this.#ask();
  };

  // Takes all that there is.
  #flush(): void {
    const pieces = this.#queue;
    const queued = this.#queued;
    const head = this.#head;
    this.#queue = [];
    this.#queued = 0;
    this.#head = "";
    this.#last = this.#closed;
    const buffer = borrow();
    let at = head === "" ? 0 : writeHead(head, buffer);
    const framed = queued > 0 && this.chunked;
    if (framed) at = writeSize(queued, buffer, at);
    if (at + queued + CRLF.length + LAST_CHUNK.length > SEND_BYTES) {
      this.#flushLarge(buffer, at, pieces, framed).then(this.#flushed, this.#failed);
      return;
    }
    for (const piece of pieces) {
      buffer.set(piece, at);
      at += piece.length;
    }
    at = this.#writeEnd(buffer, at, framed);
    if (at === 0) {
      giveBack(buffer);
      return this.#flushed();
    }
    this.#buffer = buffer;
    this.#length = at;
    this.socket.write(buffer.subarray(0, at)).then(this.#wrote, this.#failed);
  }

  // The end of a chunk, and of all of them.
  #writeEnd(buffer: Uint8Array, at: number, framed: boolean): number {
    if (framed) {
      buffer[at++] = 13;
      buffer[at++] = 10;
    }
    if (!this.#last || !this.chunked) return at;
    buffer.set(LAST_CHUNK, at);
    return at + LAST_CHUNK.length;
  }

  async #flushLarge(
    buffer: Uint8Array<ArrayBuffer>,
    begun: number,
    pieces: readonly Uint8Array[],
    framed: boolean,
  ): Promise<void> {
    if (begun > 0) await writeFully(this.socket, buffer, begun);
    for (const piece of pieces) await writeFully(this.socket, piece, piece.length);
    const end = this.#writeEnd(buffer, 0, framed);
    if (end > 0) await writeFully(this.socket, buffer, end);
    giveBack(buffer);
  }
}

const HEX = encoder.encode("0123456789abcdef");

// The line with a chunk's size.
function writeSize(size: number, buffer: Uint8Array, at: number): number {
  for (let shift = (31 - Math.clz32(size)) & ~3; shift >= 0; shift -= 4) buffer[at++] = HEX[(size >>> shift) & 15];
  buffer[at++] = 13;
  buffer[at++] = 10;
  return at;
}
