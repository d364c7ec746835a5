// SPDX-License-Identifier: Apache-2.0
// The events of one engine, in order and without a gap, or the word that there is one. The engine publishes them (PUB) under
// numbers that begin anew with it, and keeps the last ones for who asks (ROUTER).

import type { Address } from "../base/address.ts";
import { TimeLimit } from "../base/time_limit.ts";
import { type Message, type SocketType, ZmtpConnection } from "../zmtp/connection.ts";
import { decodeBatch, type EventBatch, MalformedEvents } from "./events.ts";

export interface SourceAddress {
  readonly events: Address;
  /** Where missed events can be asked for; undefined for nowhere. */
  readonly replay: Address | undefined;
  readonly topic: string;
}

export interface SourceLimits {
  readonly messageBytes: number;
  readonly connectMs: number;
  readonly replayMs: number;
}

/** Is told what an engine's caches do. */
export interface SourceListener {
  batch(batch: EventBatch): void;
  /** What was known does not hold any more: events are lost, or the engine may have begun anew. */
  reset(mayBeAnother: boolean): void;
  /** Whether all is known that the engine holds: every event since its beginning, or since its cache was empty. */
  complete(known: boolean): void;
  /** Events were missed, so many. */
  gap(missed: number): void;
}

/** In the place of a number: no more batches are kept. */
const END = 0xffff_ffff_ffff_ffffn;
/** Engines count from 0, llm-d's simulator from 1. */
const FIRST = 1;

export class EventSource {
  /** Number of the last batch that was taken; -1 for none. */
  #last = -1;
  #lastPayload: Uint8Array | undefined;
  #everything = false;
  /** Number of the first one that was kept when all were asked for; Infinity where they were not. */
  #first = Infinity;
  /** The last one before a connection that could not be gone on with; -1 for none. */
  #before = -1;
  connected = false;

  constructor(
    /** Where it publishes; undefined for one that connects itself. */
    readonly address: SourceAddress | undefined,
    readonly limits: SourceLimits,
    readonly listener: SourceListener,
  ) {}

  /** Listens until the connection fails, which it throws, or the signal aborts. What is known stays for the next time. */
  async listen(signal: AbortSignal): Promise<void> {
    const { events, topic } = this.address!;
    using connection = await this.#connect(events, "SUB", signal);
    const close = () => connection.close();
    signal.addEventListener("abort", close);
    try {
      await subscribe(connection, topic);
      this.connected = true;
      await this.#catchUp(signal);
      await this.#receive(connection, signal);
    } finally {
      this.connected = false;
      signal.removeEventListener("abort", close);
    }
  }

  /** The same over a connection that the engine has made, which ends with it. `first` told which engine it is. */
  async adopt(connection: ZmtpConnection, first: Message, signal: AbortSignal): Promise<void> {
    try {
      this.connected = true;
      await this.#take(first, signal);
      await this.#receive(connection, signal);
    } finally {
      this.connected = false;
    }
  }

  async #receive(connection: ZmtpConnection, signal: AbortSignal): Promise<void> {
    for (;;) {
      const message = await connection.receive();
      if (message === undefined) throw new Error("the engine closed the connection of its events");
      await this.#take(message, signal);
    }
  }

  /** Takes a message as it was published. What one connection brings twice is of one engine: it was replayed before. */
  async #take(message: Message, signal: AbortSignal): Promise<void> {
    if (message.length !== 3 || message[1].length !== 8) {
      throw new MalformedEvents(`a message of ${message.length} frames, expected topic, number and events`);
    }
    const sequence = Number(new DataView(message[1].buffer, message[1].byteOffset).getBigUint64(0));
    if (sequence <= this.#last) return;
    const first = this.#last < 0 && sequence <= FIRST;
    if (first) {
      if (this.#before >= 0) this.listener.reset(true); // it counts anew
      this.#before = -1;
      this.#know(true);
    } else if (sequence > this.#last + 1) await this.#fill(sequence, signal);
    if (sequence > this.#last) this.#apply(sequence, message[2]);
  }

  #know(everything: boolean): void {
    if (everything === this.#everything) return;
    this.#everything = everything;
    this.listener.complete(everything);
  }

  /** The cache is empty, whatever was missed. */
  cleared(): void {
    this.#know(true);
  }

  /** What it told before is of no use any more. */
  incomplete(): void {
    this.#know(false);
  }

  #apply(sequence: number, payload: Uint8Array): void {
    this.#last = sequence;
    this.#lastPayload = payload;
    try {
      this.listener.batch(decodeBatch(payload));
    } catch (error) {
      if (!(error instanceof MalformedEvents)) throw error;
      this.listener.gap(1); // nobody knows what it told
      this.listener.reset(false);
      this.#first = Infinity;
      this.#know(false);
    }
  }

  #forget(mayBeAnother: boolean): void {
    this.#last = -1;
    this.#first = Infinity; // until all are asked for
    this.#lastPayload = undefined;
    this.listener.reset(mayBeAnother);
    this.#know(false);
  }

  // After a connection: what was published before, of the engine that is known or of one that began anew meanwhile.
  async #catchUp(signal: AbortSignal): Promise<void> {
    const replay = this.address?.replay;
    if (replay === undefined) {
      if (this.#last < 0) return;
      this.#before = this.#last;
      return this.#forget(false); // whether it is the same, nobody knows
    }
    if (this.#last >= 0) {
      if (await this.#goOn(signal)) return this.#know(this.#everything || this.#first <= FIRST);
      this.#forget(true);
    }
    this.#first = -1;
    for await (const [sequence, payload] of this.#replay(0, signal)) {
      if (this.#first < 0) this.#first = sequence;
      this.#apply(sequence, payload);
    }
    this.#know(this.#first <= FIRST); // or it has published nothing yet
  }

  // Whether the engine is the same: the last batch that is known is among those that it has kept. Takes those after it.
  async #goOn(signal: AbortSignal): Promise<boolean> {
    let same = false;
    for await (const [sequence, payload] of this.#replay(this.#last, signal)) {
      if (same) this.#apply(sequence, payload);
      else if (sequence === this.#last && equal(payload, this.#lastPayload!)) same = true;
      else return false;
    }
    return same;
  }

  // Takes the batches that were missed before one that came, as far as the engine has kept them.
  async #fill(sequence: number, signal: AbortSignal): Promise<void> {
    const begins = this.#last < 0;
    if (this.address?.replay !== undefined) {
      for await (const [number, payload] of this.#replay(this.#last + 1, signal)) {
        if (number > this.#last + 1 && !(this.#last < 0 && number === FIRST)) break; // not kept any more
        this.#apply(number, payload);
      }
      if (this.#last >= sequence - 1) return begins ? this.#know(true) : undefined;
    }
    if (begins) return; // it was there before: what it holds of that is not known
    this.listener.gap(sequence - this.#last - 1);
    this.#forget(false);
  }

  // Batches from a number on, as far as the engine has kept them.
  async *#replay(from: number, signal: AbortSignal): AsyncGenerator<[number, Uint8Array]> {
    using limit = new TimeLimit(signal, this.limits.replayMs);
    using connection = await this.#connect(this.address!.replay!, "DEALER", limit.signal);
    const close = () => connection.close();
    limit.signal.addEventListener("abort", close);
    try {
      const number = new Uint8Array(8);
      new DataView(number.buffer).setBigUint64(0, BigInt(from));
      await connection.send([new Uint8Array(0), number]);
      for (;;) {
        const message = await connection.receive();
        if (message === undefined) throw new Error("the engine closed the connection of its kept events");
        // With the topic, or in older versions without.
        const [sequence, payload] = message.slice(-2);
        if (message.length < 3 || sequence.length !== 8) throw new MalformedEvents("an answer that is no kept batch");
        const big = new DataView(sequence.buffer, sequence.byteOffset).getBigUint64(0);
        if (big === END) return;
        yield [Number(big), payload];
      }
    } finally {
      limit.signal.removeEventListener("abort", close);
    }
  }

  async #connect({ hostname, port }: Address, type: SocketType, signal: AbortSignal): Promise<ZmtpConnection> {
    const { connectMs, messageBytes } = this.limits;
    using limit = new TimeLimit(signal, connectMs);
    const stream = await Deno.connect({ hostname, port, signal: limit.signal });
    stream.setKeepAlive();
    let greeted = false;
    const close = () => greeted || stream.close();
    limit.signal.addEventListener("abort", close);
    try {
      const connection = await ZmtpConnection.open(stream, type, messageBytes);
      greeted = true;
      return connection;
    } finally {
      limit.signal.removeEventListener("abort", close);
    }
  }
}

/** Asks a publisher for everything whose topic begins so. */
export async function subscribe(connection: ZmtpConnection, topic: string): Promise<void> {
  await connection.send([new TextEncoder().encode(`\x01${topic}`)]);
}

function equal(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, i) => byte === b[i]);
}
