// SPDX-License-Identifier: Apache-2.0
// An engine's answer as Envoy shows it: its head once, then its body piece by piece. What the gateway reads of a connection
// of its own it reads here.

import type { Deadline, Deadlines } from "../../base/deadlines.ts";
import type { AnswerBody, Opened } from "../../engines/engine.ts";
import type { Waiting } from "../../gateway/cancellation.ts";
import { UpstreamError } from "../../upstream/errors.ts";
import type { Framing, ResponseHead } from "../../upstream/response_head.ts";
import { HeadFields } from "./fields.ts";

/** How long an engine may say nothing. */
export interface Patience {
  /** Until the head. */
  headMs: number;
  /** Until the first byte of a body, and between two. */
  firstByteMs: number;
  idleMs: number;
}

export class ResponseHalf implements AnswerBody, Waiting, Deadline {
  deadline = Infinity;
  place = -1;
  /** Of the head, once it has come. */
  fields: HeadFields | undefined;
  /** Whether all of it has come; whether it is a head alone. */
  ended = false;
  alone = false;
  readonly #opened = Promise.withResolvers<Opened>();
  readonly #pieces: Uint8Array<ArrayBuffer>[] = [];
  #reader: { resolve(piece: Uint8Array<ArrayBuffer> | null): void; reject(error: Error): void } | undefined;
  #error: Error | undefined;
  /** Whether nobody wants what still comes. */
  #closed = false;
  #begun = false;

  /**
   * @param seen Whether the body will be shown; else the answer ends when Envoy says so.
   * @param taken Is told how many bytes of what came have been read.
   */
  constructor(
    readonly deadlines: Deadlines,
    readonly patience: Patience,
    readonly seen: boolean,
    readonly taken: (bytes: number) => void,
  ) {}

  /** Waits for the answer to a request that has just been sent on its way. */
  open(waitsFor: (waiting: Waiting) => void): Promise<Opened> {
    this.#within(this.patience.headMs);
    waitsFor(this);
    return this.#opened.promise;
  }

  // --- What comes.

  headers(list: readonly string[], ends: boolean, servedBy: string | undefined): void {
    this.fields = new HeadFields(list);
    this.ended = this.alone = ends;
    this.#within(Infinity);
    this.#opened.resolve({ head: this.#head(ends), body: this, servedBy });
  }

  #head(ends: boolean): ResponseHead {
    const fields = this.fields!;
    const headers: [string, string][] = [];
    // What is not shown cannot be waited for as what it is.
    fields.forEach((value, name) => {
      if (name !== "content-length" && (this.seen || name !== "content-type")) headers.push([name, value]);
    });
    const length = fields.get("content-length");
    const framing: Framing = ends
      ? { kind: "none" }
      : this.seen && length !== null && /^\d{1,15}$/.test(length)
      ? { kind: "length", bytes: Number(length) }
      : { kind: "close" };
    return { status: Number(fields.pseudo(":status")), headers, framing, keepAlive: true };
  }

  /** A piece of the body, which is lent. */
  piece(bytes: Uint8Array, ends: boolean): void {
    this.ended = ends;
    this.#begun = true;
    if (this.#closed) return this.taken(bytes.length);
    if (bytes.length > 0) this.#pieces.push(bytes.slice());
    this.#serve();
  }

  /** Nothing more comes. */
  end(): void {
    this.ended = true;
    this.#serve();
  }

  // --- What is read.

  readBody(): Promise<Uint8Array<ArrayBuffer> | null> {
    const piece = this.#next();
    if (piece !== undefined) return Promise.resolve(piece);
    if (this.#error) return Promise.reject(this.#error);
    this.#within(this.#begun ? this.patience.idleMs : this.patience.firstByteMs);
    return new Promise((resolve, reject) => this.#reader = { resolve, reject });
  }

  // A piece, null at the end, undefined where one has to be waited for.
  #next(): Uint8Array<ArrayBuffer> | null | undefined {
    const piece = this.#pieces.shift();
    if (piece !== undefined) this.taken(piece.length);
    return piece ?? (this.ended ? null : undefined);
  }

  #serve(): void {
    if (this.#reader === undefined) return;
    const piece = this.#next();
    if (piece === undefined) return;
    const { resolve } = this.#reader;
    this.#reader = undefined;
    this.#within(Infinity);
    resolve(piece);
  }

  /** Whether it has failed, or nobody wants what still comes. */
  get over(): boolean {
    return this.#closed;
  }

  fail(error: Error): void {
    if (this.#error) return;
    this.#error = error;
    this.close();
    this.#opened.reject(error);
    this.#opened.promise.catch(() => {}); // nobody may be waiting for it
    this.#reader?.reject(error);
    this.#reader = undefined;
  }

  close(): void {
    this.#closed = true;
    this.#within(Infinity);
    for (const piece of this.#pieces.splice(0)) this.taken(piece.length);
  }

  finish(): void {
    this.close();
  }

  #within(ms: number): void {
    this.deadline = ms === Infinity ? Infinity : this.deadlines.clock.now() + ms;
    if (ms === Infinity) this.deadlines.unwatch(this);
    else if (this.place < 0) this.deadlines.watch(this);
  }

  /** The engine has said nothing for too long. */
  expire(): void {
    if (this.fields === undefined) this.fail(new UpstreamError("header_timeout", "the engine did not answer in time"));
    else if (this.seen) {
      const failure = this.#begun ? "idle_timeout" : "first_byte_timeout";
      this.fail(new UpstreamError(failure, "the engine fell silent in the middle of its answer"));
    }
  }
}
