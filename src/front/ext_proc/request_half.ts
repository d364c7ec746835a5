// SPDX-License-Identifier: Apache-2.0
// A client's request as Envoy shows it, and what Envoy is told of where it goes.

import { concat } from "../../base/bytes.ts";
import type { Waiting } from "../../gateway/cancellation.ts";
import type { Carried, Carrier } from "../../gateway/carrier.ts";
import type { Opened } from "../../engines/engine.ts";
import type { GrpcStream } from "../../grpc/stream.ts";
import type { BodyRest } from "../../upstream/body_rest.ts";
import type { BodyReader, Fields, HttpRequest } from "../http/exchange.ts";
import { tooLarge } from "../http/body.ts";
import { HeadFields, requestMutation } from "./fields.ts";
import { answer, answerTrailers, type BodyChange, BodyMode } from "./messages.ts";
import type { ResponseHalf } from "./response_half.ts";

/** A body goes on in pieces of this size. */
const PIECE_BYTES = 65_536;
const EMPTY: Uint8Array<ArrayBuffer> = new Uint8Array(0);

export interface RequestParts {
  readonly stream: GrpcStream;
  readonly response: ResponseHalf;
  /** How its body comes: BodyMode. */
  readonly mode: number;
  readonly among: readonly string[] | undefined;
  readonly fallbacks: number;
  readonly rewrites: boolean;
  /** Longest body that may be. */
  readonly bodyBytes: number;
}

export class RequestHalf implements HttpRequest, Carrier {
  readonly method: string;
  readonly target: string;
  readonly authority: string | null;
  readonly arrival = undefined;
  readonly among: readonly string[] | undefined;
  readonly fallbacks: number;
  readonly rewrites: boolean;
  /** Whether Envoy has been told where it goes. */
  sent = false;
  readonly #head: HeadFields;
  readonly #parts: RequestParts;
  readonly #pieces: Uint8Array<ArrayBuffer>[] = [];
  #bytes = 0;
  /** Whether it is a head alone. */
  readonly #alone: boolean;
  #ended = false;
  #left = false;
  #tooLong = false;
  #trailers = false;
  #reading: (() => void) | undefined;
  #leave: () => void = () => {};

  /** @param list Its head: names and values in turn. */
  constructor(list: readonly string[], ends: boolean, parts: RequestParts) {
    this.#head = new HeadFields(list);
    this.#parts = parts;
    this.#alone = this.#ended = ends;
    this.method = this.#head.pseudo(":method");
    this.target = this.#head.pseudo(":path");
    this.authority = this.#head.pseudo(":authority") || null;
    this.among = parts.among;
    this.fallbacks = parts.fallbacks;
    this.rewrites = parts.rewrites;
  }

  get carrier(): Carrier {
    return this;
  }

  get fields(): Fields {
    return this.#head;
  }

  // --- What comes.

  /** Bytes of its body that have come. */
  get size(): number {
    return this.#bytes;
  }

  /** A piece of its body, which is lent. */
  piece(bytes: Uint8Array, ends: boolean): void {
    if (bytes.length > 0) this.#pieces.push(bytes.slice());
    this.#bytes += bytes.length;
    this.#ended = ends;
    this.#reading?.();
  }

  trailers(): void {
    this.#trailers = this.#ended = true;
    this.#reading?.();
  }

  /** More comes than may. */
  overflow(): void {
    this.#tooLong = true;
    this.#reading?.();
  }

  /** Its client has left. */
  leave(): void {
    this.#left = true;
    this.#reading?.();
    this.#leave();
  }

  // --- What the gateway asks.

  arrived(): Uint8Array<ArrayBuffer> | undefined {
    return this.#ended && !this.#tooLong ? this.#take() : undefined;
  }

  #take(): Uint8Array<ArrayBuffer> {
    const pieces = this.#pieces.splice(0);
    return pieces.length === 1 ? pieces[0] : concat(pieces);
  }

  async bytes(): Promise<Uint8Array<ArrayBuffer>> {
    while (!this.#ended || this.#tooLong) await this.#more();
    return this.#take();
  }

  reader(): BodyReader | undefined {
    return {
      read: async () => {
        while ((this.#pieces.length === 0 && !this.#ended) || this.#tooLong) await this.#more();
        const value = this.#pieces.shift();
        return { done: value === undefined, value };
      },
      cancel: () => Promise.resolve(),
    };
  }

  // Throws GatewayError for a body that is longer than may be, Error when the client leaves.
  async #more(): Promise<void> {
    if (!this.#left && !this.#tooLong) await new Promise<void>((resolve) => this.#reading = resolve);
    if (this.#tooLong) throw tooLarge(this.#parts.bodyBytes);
    if (this.#left) throw new Error("the client left inside a body");
  }

  whenLeft(leave: () => void): void {
    this.#leave = leave;
  }

  // --- Where it goes.

  async send(carried: Carried, waitsFor: (waiting: Waiting) => void): Promise<Opened> {
    const { stream, response, mode } = this.#parts;
    const { mutation, destination } = requestMutation(this.#head, carried);
    const { body, rest } = carried;
    this.sent = true;
    const opened = response.open(waitsFor);
    if (this.#alone) stream.send(answer("request", "headers", mutation, undefined, destination));
    else if (mode === BodyMode.fullDuplex) {
      stream.send(answer("request", "headers", mutation, undefined, destination));
      // An answer may come before all of it has gone.
      this.#stream(body, rest).catch((error) => response.fail(error));
    } else {
      // All of it has come: it is answered by a whole one.
      const whole = rest === undefined ? body : concat([body, ...await all(rest)]);
      const change: BodyChange = { kind: "replace", bytes: whole };
      stream.send(answer("request", "body", mutation, change, destination));
    }
    return await opened;
  }

  async #stream(body: Uint8Array, rest: BodyRest | undefined): Promise<void> {
    const { response } = this.#parts;
    if (body.length === 0 && rest === undefined && !this.#trailers) this.#piece(EMPTY, true);
    for (let at = 0; at < body.length && !response.over; at += PIECE_BYTES) {
      const ends = rest === undefined && at + PIECE_BYTES >= body.length && !this.#trailers;
      this.#piece(body.subarray(at, at + PIECE_BYTES), ends);
      if (!this.#parts.stream.hasRoom) await this.#parts.stream.whenRoom();
    }
    if (rest !== undefined) {
      for (let piece = await rest.next(); piece !== undefined; piece = await rest.next()) {
        if (response.over) return;
        this.#piece(piece, false);
        if (!this.#parts.stream.hasRoom) await this.#parts.stream.whenRoom();
      }
      if (!this.#trailers) this.#piece(EMPTY, true);
    }
    if (this.#trailers) this.#parts.stream.send(answerTrailers("request"));
  }

  #piece(bytes: Uint8Array, ends: boolean): void {
    this.#parts.stream.send(answer("request", "body", undefined, { kind: "piece", bytes, ends }));
  }
}

async function all(rest: BodyRest): Promise<Uint8Array[]> {
  const pieces: Uint8Array[] = [];
  for (let piece = await rest.next(); piece !== undefined; piece = await rest.next()) pieces.push(piece);
  return pieces;
}
