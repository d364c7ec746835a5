// SPDX-License-Identifier: Apache-2.0
// One call of gRPC: a stream of HTTP/2 that carries messages, each behind its length, and ends with a status in trailers.

import { encodeFields } from "./hpack.ts";
import { ErrorCode, Flag, FrameType, type FrameWriter, readUint32, StreamError, writeUint32 } from "./frames.ts";

/** gRPC's codes, as far as they are told here. */
export const Status = { ok: 0, invalidArgument: 3, resourceExhausted: 8, unimplemented: 12, internal: 13 } as const;

/** Takes what a client sends on a stream. */
export interface StreamHandler {
  /** A message; its bytes are lent for the time of the call. They count as taken when the stream is told so. */
  message(bytes: Uint8Array): void;
  /** The client sends no more. */
  ended(): void;
  /** A message is longer than may be; true when that has been answered, and the call goes on. */
  tooLong?(bytes: number): boolean;
  /** The server is about to end. */
  leaving?(): void;
  /** The client or its connection is gone before the stream's end. */
  gone(): void;
}

/** What a stream needs of its connection. */
export interface StreamOwner {
  readonly out: FrameWriter;
  readonly maxFrameBytes: number;
  readonly maxMessageBytes: number;
  /** What may be sent on the whole connection. */
  sendWindow: number;
  flushSoon(): void;
  /** The stream waits for the connection's window. */
  blocked(stream: GrpcStream): void;
  /** Nothing more will be sent on it, or accepted. */
  over(stream: GrpcStream): void;
}

const PREFIX_BYTES = 5;
const HEAD = encodeFields([":status", "200", "content-type", "application/grpc"]);
const OK_TRAILERS = encodeFields(["grpc-status", "0"]);
/** What a handler has not taken yet may be so much before its client is held back. */
const UNTAKEN_BYTES = 262_144;
/** Credit is given in pieces of at least so much. */
const CREDIT_BYTES = 65_536;

export class GrpcStream {
  handler!: StreamHandler;
  /** The client sends no more. */
  remoteEnded = false;
  readonly #owner: StreamOwner;
  readonly #receiveWindow: number;
  #headSent = false;
  #closed = false;
  // --- Receiving.
  #prefix = new Uint8Array(PREFIX_BYTES);
  #prefixBytes = 0;
  /** A message of which not all has come. */
  #message: Uint8Array | undefined;
  #messageBytes = 0;
  /** Bytes of messages that the handler has not taken. */
  #untaken = 0;
  #received = 0;
  /** Bytes of a message that is too long, and was answered as that. */
  #skip = 0;
  /** Bytes that came and were not given back as credit. */
  #owed = 0;
  // --- Sending.
  readonly #queue: Uint8Array[] = [];
  #queuedEnd: Uint8Array | undefined;
  readonly #room: (() => void)[] = [];

  /** @param contentLength Bytes that are to come in all, where the client said so. */
  constructor(
    readonly id: number,
    owner: StreamOwner,
    public sendWindow: number,
    receiveWindow: number,
    readonly contentLength: number | undefined,
  ) {
    this.#owner = owner;
    this.#receiveWindow = receiveWindow;
  }

  // --- What came.

  /** Takes a DATA frame's bytes, of `flow` bytes with its padding. Throws StreamError. */
  data(bytes: Uint8Array, flow: number): void {
    this.#owed += flow;
    this.#received += bytes.length;
    if (this.#owed > this.#receiveWindow) {
      throw new StreamError(this.id, ErrorCode.flowControl, "more came than there was credit for");
    }
    let at = 0;
    while (at < bytes.length && !this.#closed) at = this.#take(bytes, at);
    this.#giveCredit();
  }

  #take(bytes: Uint8Array, at: number): number {
    if (this.#skip > 0) {
      const skipped = Math.min(this.#skip, bytes.length - at);
      this.#skip -= skipped;
      return at + skipped;
    }
    if (this.#message !== undefined) {
      const missing = this.#message.length - this.#messageBytes;
      const part = bytes.subarray(at, at + missing);
      this.#message.set(part, this.#messageBytes);
      this.#messageBytes += part.length;
      if (part.length === missing) {
        const message = this.#message;
        this.#message = undefined;
        this.#deliver(message);
      }
      return at + part.length;
    }
    if (this.#prefixBytes === 0 && bytes.length - at >= PREFIX_BYTES) {
      // Fast path: a whole message in one frame is handed on where it lies.
      const length = this.#length(bytes, at);
      if (this.#skip > 0) return at + PREFIX_BYTES;
      const end = at + PREFIX_BYTES + length;
      if (end <= bytes.length) {
        this.#deliver(bytes.subarray(at + PREFIX_BYTES, end));
        return end;
      }
    }
    const part = bytes.subarray(at, at + PREFIX_BYTES - this.#prefixBytes);
    this.#prefix.set(part, this.#prefixBytes);
    this.#prefixBytes += part.length;
    if (this.#prefixBytes === PREFIX_BYTES) {
      this.#prefixBytes = 0;
      const length = this.#length(this.#prefix, 0);
      if (this.#skip > 0) return at + part.length;
      if (length === 0) this.#deliver(new Uint8Array(0));
      else {
        this.#message = new Uint8Array(length);
        this.#messageBytes = 0;
      }
    }
    return at + part.length;
  }

  #length(bytes: Uint8Array, at: number): number {
    const length = readUint32(bytes, at + 1);
    const { maxMessageBytes } = this.#owner;
    if (bytes[at] !== 0) this.#giveUp(Status.unimplemented, "messages are not to be compressed");
    else if (length > maxMessageBytes) {
      const message = `a message of ${length} bytes, at most ${maxMessageBytes} are taken`;
      if (this.handler.tooLong?.(length)) this.#skip = length;
      else this.#giveUp(Status.resourceExhausted, message);
    }
    return this.#closed || this.#skip > 0 ? 0 : length;
  }

  // Ends a call that its handler still thinks is going on.
  #giveUp(status: number, message: string): void {
    if (this.#closed) return;
    this.handler.gone();
    this.close(status, message);
  }

  #deliver(message: Uint8Array): void {
    if (this.#closed) return;
    this.#untaken += message.length;
    this.handler.message(message);
  }

  /** The handler has done with so many bytes of messages: the client may send as many more. */
  taken(bytes: number): void {
    this.#untaken -= bytes;
    this.#giveCredit();
  }

  #giveCredit(): void {
    if (this.#owed < CREDIT_BYTES || this.#untaken > UNTAKEN_BYTES || this.remoteEnded || this.#closed) return;
    this.#owner.out.windowUpdate(this.id, this.#owed);
    this.#owed = 0;
    this.#owner.flushSoon();
  }

  /** The client ended its side. Throws StreamError. */
  remoteEnd(): void {
    this.remoteEnded = true;
    if (this.contentLength !== undefined && this.contentLength !== this.#received) {
      throw new StreamError(this.id, ErrorCode.protocol, "content-length does not fit the body");
    }
    if (this.#closed) return;
    if (this.#message === undefined && this.#prefixBytes === 0) return this.handler.ended();
    this.#giveUp(Status.internal, "the call ends inside a message");
  }

  /** It has been reset, or its connection lost. */
  gone(): void {
    const open = !this.#closed;
    this.#closed = true;
    this.#queue.length = 0;
    this.#queuedEnd = undefined;
    this.#wake();
    if (open) this.handler.gone();
  }

  // --- What goes.

  /** Whether nothing of what was sent waits for the client. */
  get hasRoom(): boolean {
    return this.#queue.length === 0;
  }

  /** Resolves when what waits has gone on, or the stream is over. */
  whenRoom(): Promise<void> {
    return this.hasRoom ? Promise.resolve() : new Promise((resolve) => this.#room.push(resolve));
  }

  /** Sends a message. */
  send(message: Uint8Array): void {
    if (this.#closed) return;
    this.#sendHead();
    const { sendWindow } = this;
    const owner = this.#owner;
    const length = PREFIX_BYTES + message.length;
    if (
      this.#queue.length === 0 && length <= owner.maxFrameBytes && length <= sendWindow && length <= owner.sendWindow
    ) {
      // Fast path: one frame, written where it leaves from.
      const payload = this.#frame(length);
      payload[0] = 0;
      writeUint32(payload, 1, message.length);
      payload.set(message, PREFIX_BYTES);
    } else {
      const framed = new Uint8Array(length);
      writeUint32(framed, 1, message.length);
      framed.set(message, PREFIX_BYTES);
      this.#queue.push(framed);
      this.drain();
    }
    owner.flushSoon();
  }

  /** Ends the call. Nothing is sent or taken afterwards. */
  close(status: number = Status.ok, message = ""): void {
    if (this.#closed) return;
    this.#closed = true;
    const trailers = status === Status.ok
      ? OK_TRAILERS
      : encodeFields(["grpc-status", String(status), "grpc-message", percentEncoded(message)]);
    if (this.#queue.length > 0) this.#queuedEnd = trailers;
    else this.#end(trailers);
    this.#owner.flushSoon();
  }

  #sendHead(): void {
    if (this.#headSent) return;
    this.#headSent = true;
    this.#owner.out.frame(FrameType.headers, Flag.endHeaders, this.id, HEAD.length).set(HEAD);
  }

  #end(trailers: Uint8Array): void {
    const { out } = this.#owner;
    this.#sendHead();
    out.frame(FrameType.headers, Flag.endHeaders | Flag.endStream, this.id, trailers.length).set(trailers);
    if (!this.remoteEnded) out.reset(this.id, ErrorCode.none);
    this.#wake();
    this.#owner.over(this);
  }

  /** Sends as much as the windows let; what does not fit waits for them. */
  drain(): void {
    const owner = this.#owner;
    while (this.#queue.length > 0) {
      const first = this.#queue[0];
      const length = Math.min(first.length, owner.maxFrameBytes, this.sendWindow, owner.sendWindow);
      if (length <= 0) {
        if (owner.sendWindow <= 0) owner.blocked(this);
        return;
      }
      this.#frame(length).set(first.subarray(0, length));
      if (length === first.length) this.#queue.shift();
      else this.#queue[0] = first.subarray(length);
    }
    if (this.#queuedEnd) this.#end(this.#queuedEnd);
    else this.#wake();
  }

  #frame(length: number): Uint8Array {
    this.sendWindow -= length;
    this.#owner.sendWindow -= length;
    return this.#owner.out.frame(FrameType.data, 0, this.id, length);
  }

  #wake(): void {
    for (const call of this.#room.splice(0)) call();
  }
}

// As gRPC's messages of a status are: what is not printable ASCII, and the percent sign.
function percentEncoded(text: string): string {
  return text.replace(/[^ -$&-~]/gu, encodeURIComponent);
}
