// SPDX-License-Identifier: Apache-2.0
// What an engine is to who listens to its events: a PUB socket for all, and a ROUTER for those who missed some.

import { ZmtpConnection } from "./connection.ts";

const MAX_BYTES = 65_536;
/** Subscribers that do not read lose messages beyond so many. */
const HIGH_WATER = 10_000;

export interface PublisherOptions {
  readonly hostname: string;
  /** 0 for any port. */
  readonly port: number;
  /** Any when not given. */
  readonly replayPort?: number;
  readonly topic: string;
  /** Messages that are kept for who missed some. */
  readonly kept: number;
}

export class Publisher implements AsyncDisposable {
  readonly #events: Deno.TcpListener;
  readonly #replays: Deno.TcpListener;
  readonly #topic: Uint8Array;
  readonly #subscribers = new Map<ZmtpConnection, { topics: Uint8Array[]; pending: number }>();
  readonly #others = new Set<ZmtpConnection>();
  readonly #kept: [number, Uint8Array][] = [];
  #sequence = 0;
  #closed = false;
  readonly #ends: Promise<void>[] = [];

  constructor(readonly options: PublisherOptions) {
    const { hostname, port, replayPort = 0, topic } = options;
    this.#topic = new TextEncoder().encode(topic);
    this.#events = Deno.listen({ hostname, port });
    this.#replays = Deno.listen({ hostname, port: replayPort });
    this.#ends.push(this.#accept(this.#events, (stream) => this.#subscriber(stream)));
    this.#ends.push(this.#accept(this.#replays, (stream) => this.#replay(stream)));
  }

  get port(): number {
    return this.#events.addr.port;
  }

  get replayPort(): number {
    return this.#replays.addr.port;
  }

  /** Number of the next message. */
  get sequence(): number {
    return this.#sequence;
  }

  /** @param lost Nobody gets it, but it is kept. */
  publish(payload: Uint8Array, lost = false): void {
    const sequence = this.#sequence++;
    this.#kept.push([sequence, payload]);
    if (this.#kept.length > this.options.kept) this.#kept.shift();
    if (lost) return;
    for (const [connection, subscriber] of this.#subscribers) {
      if (!subscriber.topics.some((topic) => startsWith(this.#topic, topic)) || subscriber.pending >= HIGH_WATER) {
        continue;
      }
      subscriber.pending++;
      connection.send([this.#topic, number(sequence), payload]).then(
        () => subscriber.pending--,
        () => connection.close(),
      );
    }
  }

  async #accept(listener: Deno.TcpListener, serve: (stream: Deno.TcpConn) => Promise<void>): Promise<void> {
    try {
      for await (const stream of listener) serve(stream).catch(() => {});
    } catch (error) {
      if (!this.#closed) throw error;
    }
  }

  async #subscriber(stream: Deno.TcpConn): Promise<void> {
    using connection = await ZmtpConnection.open(stream, "PUB", MAX_BYTES);
    const subscriber = { topics: [] as Uint8Array[], pending: 0 };
    this.#subscribers.set(connection, subscriber);
    if (this.#closed) return;
    try {
      for (let message; (message = await connection.receive()) !== undefined;) {
        if (message[0][0] === 1) subscriber.topics.push(message[0].slice(1));
      }
    } finally {
      this.#subscribers.delete(connection);
    }
  }

  async #replay(stream: Deno.TcpConn): Promise<void> {
    using connection = await ZmtpConnection.open(stream, "ROUTER", MAX_BYTES);
    this.#others.add(connection);
    try {
      for (let message; (message = await connection.receive()) !== undefined;) {
        const asked = message.at(-1)!;
        const from = Number(new DataView(asked.buffer, asked.byteOffset).getBigUint64(0));
        const nothing = new Uint8Array(0);
        for (const [sequence, payload] of this.#kept.filter(([sequence]) => sequence >= from)) {
          await connection.send([nothing, this.#topic, number(sequence), payload]);
        }
        await connection.send([nothing, nothing, new Uint8Array(8).fill(0xff), nothing]);
      }
    } finally {
      this.#others.delete(connection);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
    this.#events.close();
    this.#replays.close();
    for (const connection of [...this.#subscribers.keys(), ...this.#others]) connection.close();
    await Promise.all(this.#ends);
  }
}

function number(value: number): Uint8Array {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(value));
  return bytes;
}

function startsWith(text: Uint8Array, beginning: Uint8Array): boolean {
  return beginning.every((byte, i) => text[i] === byte);
}
