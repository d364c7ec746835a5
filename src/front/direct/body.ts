// SPDX-License-Identifier: Apache-2.0
// The body of a request on a connection of ours: read when it is wanted, a large one of known length straight into the
// memory that it is handed on in.

import { concat } from "../../base/bytes.ts";
import { GatewayError } from "../../base/errors.ts";
import { ChunkedDecoder } from "../../upstream/chunked_decoder.ts";
import type { BodyReader } from "../http/exchange.ts";

/** What a body is read from. */
export interface BodyConnection {
  /** Bytes that have come and belong to nobody yet; they are the buffer's. */
  readonly arrived: Uint8Array<ArrayBuffer>;
  consume(bytes: number): void;
  more(): Promise<void>;
  into(target: Uint8Array): Promise<number>;
  goOn(): Promise<void>;
  bodyRead(): void;
  close(): void;
}

const PIECE_BYTES = 65_536;
const EMPTY: Uint8Array<ArrayBuffer> = new Uint8Array(0);

export class DirectBody implements BodyReader {
  /** Bytes that are still to come; -1 when it comes in chunks. */
  #left: number;
  readonly #chunked: ChunkedDecoder | undefined;
  #kept = EMPTY;
  #expects: boolean;
  #cancelled = false;
  #done: boolean;

  /**
   * @param bytes Its length; -1 when it comes in chunks.
   * @param expects Whether the client waits for a word before it sends it.
   */
  constructor(readonly connection: BodyConnection, bytes: number, expects: boolean) {
    this.#left = bytes;
    this.#chunked = bytes < 0 ? new ChunkedDecoder() : undefined;
    this.#expects = expects;
    this.#done = bytes === 0;
  }

  /** Whether all of it has been read. */
  get done(): boolean {
    return this.#done;
  }

  /** All of it, where that has come with the head. */
  whole(): Uint8Array<ArrayBuffer> | undefined {
    if (this.#done || this.#chunked || this.connection.arrived.length < this.#left) return undefined;
    const whole = this.connection.arrived.slice(0, this.#left);
    this.connection.consume(this.#left);
    this.#finished();
    return whole;
  }

  /** All of it: memory is taken for as much as was announced. */
  async bytes(): Promise<Uint8Array<ArrayBuffer>> {
    if (this.#done) return EMPTY;
    if (this.#chunked) return await this.#gather();
    // Fast path: a small body arrives together with its head.
    const here = this.whole();
    if (here !== undefined) return here;
    const whole = new Uint8Array(this.#left);
    for (let at = 0; at < whole.length;) {
      const taken = await this.readInto(whole.subarray(at));
      if (taken === 0) throw new Error("the body was given up");
      at += taken;
    }
    return whole;
  }

  async #gather(): Promise<Uint8Array<ArrayBuffer>> {
    const pieces: Uint8Array[] = [];
    for (let next = await this.read(); next.value !== undefined; next = await this.read()) pieces.push(next.value);
    return concat(pieces);
  }

  async readInto(target: Uint8Array): Promise<number> {
    if (this.#chunked) {
      // What is not taken of a piece is kept.
      if (this.#kept.length === 0) this.#kept = (await this.read()).value ?? EMPTY;
      const taken = this.#kept.subarray(0, target.length);
      target.set(taken);
      this.#kept = this.#kept.subarray(taken.length);
      return taken.length;
    }
    if (this.#done || this.#cancelled) return 0;
    await this.#ready();
    const { connection } = this;
    const wanted = target.subarray(0, this.#left);
    let taken = Math.min(connection.arrived.length, wanted.length);
    if (taken > 0) {
      wanted.set(connection.arrived.subarray(0, taken));
      connection.consume(taken);
    } else taken = await connection.into(wanted);
    this.#left -= taken;
    if (this.#left === 0) this.#finished();
    return taken;
  }

  async read(): Promise<{ done: boolean; value?: Uint8Array<ArrayBuffer> }> {
    while (!this.#done && !this.#cancelled) {
      await this.#ready();
      const value = this.#chunked ? await this.#chunk(this.#chunked) : await this.#piece();
      if (value.length > 0) return { done: false, value };
    }
    return { done: true };
  }

  async #piece(): Promise<Uint8Array<ArrayBuffer>> {
    const { connection } = this;
    let piece = connection.arrived.slice(0, this.#left);
    if (piece.length > 0) connection.consume(piece.length);
    else {
      const target = new Uint8Array(Math.min(PIECE_BYTES, this.#left));
      piece = target.subarray(0, await connection.into(target));
    }
    this.#left -= piece.length;
    if (this.#left === 0) this.#finished();
    return piece;
  }

  async #chunk(decoder: ChunkedDecoder): Promise<Uint8Array<ArrayBuffer>> {
    const { connection } = this;
    if (connection.arrived.length === 0) await connection.more();
    const { arrived } = connection;
    let end: number;
    try {
      end = decoder.decode(arrived, 0, arrived.length);
    } catch (error) {
      throw new GatewayError("invalid_request", `The request body is not in chunks: ${(error as Error).message}`);
    }
    const piece = arrived.slice(0, end);
    connection.consume(arrived.length - decoder.excess);
    if (decoder.done) this.#finished();
    return piece;
  }

  /** Nobody wants it: what has come whole is left out, so that the connection goes on. */
  discard(): void {
    if (this.#done || this.#chunked || this.connection.arrived.length < this.#left) return;
    this.connection.consume(this.#left);
    this.#finished();
  }

  // A client that waits is told to go on, unless it has begun.
  #ready(): Promise<void> | undefined {
    if (!this.#expects) return undefined;
    this.#expects = false;
    return this.connection.arrived.length === 0 ? this.connection.goOn() : undefined;
  }

  #finished(): void {
    this.#done = true;
    this.connection.bodyRead();
  }

  /** Nothing more of it is wanted: the answer ends the connection. */
  cancel(): Promise<void> {
    this.#cancelled = true;
    return Promise.resolve();
  }
}
