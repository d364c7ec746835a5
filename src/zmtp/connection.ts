// SPDX-License-Identifier: Apache-2.0
// One connection of ZMTP 3.0, the protocol of ZeroMQ (https://rfc.zeromq.org/spec/23), without security: a greeting and a
// command from each side, then messages of frames. Which side connected does not matter to it.

import { concat } from "../base/bytes.ts";

/** A message is a list of frames. */
export type Message = Uint8Array[];

export type SocketType = "SUB" | "PUB" | "DEALER" | "ROUTER";

/** The peer speaks another protocol, or another one than it may to this socket. */
export class ZmtpError extends Error {
  override readonly name = "ZmtpError";
}

/** What the types of sockets may talk to. */
const PEERS: Record<SocketType, readonly string[]> = {
  SUB: ["PUB", "XPUB"],
  PUB: ["SUB", "XSUB"],
  DEALER: ["ROUTER", "REP", "DEALER"],
  ROUTER: ["DEALER", "REQ", "ROUTER"],
};

const GREETING_BYTES = 64;
const MECHANISM_AT = 12;
const MORE = 1;
const LONG = 2;
const COMMAND = 4;
const READ_BYTES = 65_536;
const MAX_FRAMES = 64;
const MAX_READY_BYTES = 8_192;

export class ZmtpConnection implements Disposable {
  readonly #stream: Deno.Conn;
  #buffer = new Uint8Array(READ_BYTES);
  #start = 0;
  #end = 0;
  #sending: Promise<void> = Promise.resolve();
  #closed = false;

  private constructor(stream: Deno.Conn, readonly maxBytes: number) {
    this.#stream = stream;
  }

  /**
   * Greets and waits for the peer's greeting. Closes the stream when that fails. The caller bounds the time by closing it.
   * @param maxBytes Longest message that is taken.
   * Throws ZmtpError, and what the stream does.
   */
  static async open(stream: Deno.Conn, type: SocketType, maxBytes: number): Promise<ZmtpConnection> {
    const connection = new ZmtpConnection(stream, maxBytes);
    try {
      await connection.#greet(type);
      return connection;
    } catch (error) {
      connection.close();
      throw error;
    }
  }

  async #greet(type: SocketType): Promise<void> {
    await this.#write([greeting()]);
    const theirs = await this.#bytes(GREETING_BYTES);
    if (theirs === undefined) throw new ZmtpError("the peer left before its greeting");
    if (theirs[0] !== 0xff || theirs[9] !== 0x7f || theirs[10] < 3) {
      throw new ZmtpError("the peer does not speak ZMTP 3: is this the port of a ZeroMQ socket?");
    }
    const mechanism = text(theirs.subarray(MECHANISM_AT, MECHANISM_AT + 20)).replace(/\0+$/, "");
    if (mechanism !== "NULL") {
      throw new ZmtpError(`the peer wants the security mechanism ${mechanism}, this one has none`);
    }
    await this.#write(frame(COMMAND, ready(type)));
    const answer = await this.#frame();
    if (answer === undefined || (answer.flags & COMMAND) === 0) {
      throw new ZmtpError("the peer's handshake is no command");
    }
    const properties = readReady(answer.body);
    const peer = properties.get("socket-type") ?? "";
    if (!PEERS[type].includes(peer)) {
      throw new ZmtpError(`the peer is a ${peer} socket, expected ${PEERS[type].join(", ")}`);
    }
  }

  /** The next message; undefined when the peer has closed. Throws ZmtpError, and what the stream does. */
  async receive(): Promise<Message | undefined> {
    const frames: Message = [];
    let bytes = 0;
    for (;;) {
      const next = await this.#frame();
      if (next === undefined) {
        if (frames.length > 0 || this.#end > this.#start) {
          throw new ZmtpError("the peer left in the middle of a message");
        }
        return undefined;
      }
      if ((next.flags & COMMAND) !== 0) continue; // e.g. a subscription of ZMTP 3.1, a ping
      frames.push(next.body);
      bytes += next.body.length;
      if (bytes > this.maxBytes || frames.length > MAX_FRAMES) {
        throw new ZmtpError(`a message of over ${this.maxBytes} bytes`);
      }
      if ((next.flags & MORE) === 0) return frames;
    }
  }

  /** Sends a message whole, after those before. */
  send(message: Message): Promise<void> {
    const pieces = message.flatMap((body, i) => frame(i + 1 < message.length ? MORE : 0, body));
    return this.#sending = this.#sending.then(() => this.#write(pieces));
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    try {
      this.#stream.close();
    } catch {
      // whoever bounded the time of its greeting has closed it
    }
  }

  [Symbol.dispose](): void {
    this.close();
  }

  async #write(pieces: Uint8Array[]): Promise<void> {
    const bytes = concat(pieces);
    for (let at = 0; at < bytes.length;) at += await this.#stream.write(bytes.subarray(at));
  }

  async #frame(): Promise<{ flags: number; body: Uint8Array } | undefined> {
    if (!await this.#fill(2)) return undefined;
    const flags = this.#buffer[this.#start];
    if (flags > 7 || (flags & (COMMAND | MORE)) === (COMMAND | MORE)) {
      throw new ZmtpError(`a frame with the flags ${flags}`);
    }
    const head = (flags & LONG) === 0 ? 2 : 9;
    if (!await this.#fill(head)) return undefined;
    const view = new DataView(this.#buffer.buffer, this.#start, head);
    const size = head === 2 ? view.getUint8(1) : Number(view.getBigUint64(1));
    if (size > this.maxBytes) throw new ZmtpError(`a frame of ${size} bytes, at most ${this.maxBytes} are taken`);
    if (!await this.#fill(head + size)) return undefined;
    const body = this.#buffer.slice(this.#start + head, this.#start + head + size);
    this.#start += head + size;
    return { flags, body };
  }

  async #bytes(count: number): Promise<Uint8Array | undefined> {
    if (!await this.#fill(count)) return undefined;
    const bytes = this.#buffer.slice(this.#start, this.#start + count);
    this.#start += count;
    return bytes;
  }

  // Reads until so many bytes are there; false at the end of the stream.
  async #fill(count: number): Promise<boolean> {
    while (this.#end - this.#start < count) {
      if (this.#start > 0 && (this.#start === this.#end || this.#start + count > this.#buffer.length)) {
        this.#buffer.copyWithin(0, this.#start, this.#end);
        this.#end -= this.#start;
        this.#start = 0;
      }
      if (count > this.#buffer.length || this.#end === this.#buffer.length) {
        const larger = new Uint8Array(Math.max(2 * this.#buffer.length, count));
        larger.set(this.#buffer.subarray(this.#start, this.#end));
        this.#end -= this.#start;
        this.#start = 0;
        this.#buffer = larger;
      }
      const read = await this.#stream.read(this.#buffer.subarray(this.#end));
      if (read === null) return false;
      this.#end += read;
    }
    return true;
  }
}

function greeting(): Uint8Array {
  const bytes = new Uint8Array(GREETING_BYTES);
  bytes[0] = 0xff;
  bytes[9] = 0x7f;
  bytes[10] = 3;
  bytes.set(new TextEncoder().encode("NULL"), MECHANISM_AT);
  return bytes;
}

function frame(flags: number, body: Uint8Array): Uint8Array[] {
  if (body.length < 256) return [Uint8Array.of(flags, body.length), body];
  const head = new Uint8Array(9);
  head[0] = flags | LONG;
  new DataView(head.buffer).setBigUint64(1, BigInt(body.length));
  return [head, body];
}

// The command READY: its name, then properties of a name and a value.
function ready(type: SocketType): Uint8Array {
  const encode = (value: string) => new TextEncoder().encode(value);
  const pieces = [Uint8Array.of(5), encode("READY")];
  for (const [name, value] of [["Socket-Type", type], ["Identity", ""]]) {
    pieces.push(Uint8Array.of(name.length), encode(name), Uint8Array.of(0, 0, 0, value.length), encode(value));
  }
  return concat(pieces);
}

function readReady(body: Uint8Array): Map<string, string> {
  const name = text(body.subarray(1, 1 + (body[0] ?? 0)));
  if (name === "ERROR") throw new ZmtpError(`the peer refuses: ${text(body.subarray(2 + body[0]))}`);
  if (name !== "READY" || body.length > MAX_READY_BYTES) throw new ZmtpError("the peer's handshake is not READY");
  const properties = new Map<string, string>();
  const view = new DataView(body.buffer, body.byteOffset, body.length);
  for (let at = 6; at < body.length;) {
    const nameEnd = at + 1 + body[at];
    if (nameEnd + 4 > body.length) throw new ZmtpError("the peer's properties are cut");
    const valueEnd = nameEnd + 4 + view.getUint32(nameEnd);
    if (valueEnd > body.length) throw new ZmtpError("the peer's properties are cut");
    properties.set(text(body.subarray(at + 1, nameEnd)).toLowerCase(), text(body.subarray(nameEnd + 4, valueEnd)));
    at = valueEnd;
  }
  return properties;
}

function text(bytes: Uint8Array): string {
  return new TextDecoder("latin1").decode(bytes);
}
