// SPDX-License-Identifier: Apache-2.0
// The server's side of an HTTP/2 connection (RFC 9113) that carries gRPC. What a peer may make us hold is bounded: streams,
// header blocks, messages, and frames that only want an answer.

import { concat } from "../base/bytes.ts";
import {
  ANSWER_MS,
  CONNECTION_WINDOW,
  MAX_ANSWERS,
  REMEMBERED,
  STREAM_WINDOW,
  TABLE_BYTES,
  UNREAD_BYTES,
} from "./bounds.ts";
import {
  ConnectionError,
  DEFAULT_FRAME_BYTES,
  DEFAULT_WINDOW,
  ErrorCode,
  Flag,
  FrameType,
  type FrameWriter,
  MAX_WINDOW,
  readUint32,
  Setting,
  StreamError,
} from "./frames.ts";
import { BUFFER_BYTES, checkPriority, FrameReader, selfDependent, type TakeFrame, unpadded } from "./frame_reader.ts";
import { HeaderDecoder, HpackError } from "./hpack.ts";
import { checkRequest } from "./request_fields.ts";
import { type GrpcLimits, type Methods, NOBODY } from "./methods.ts";
import { Outbox } from "./outbox.ts";
import { GrpcStream, Status, type StreamOwner } from "./stream.ts";

export class GrpcConnection implements StreamOwner {
  readonly out: FrameWriter;
  readonly #outbox: Outbox;
  maxFrameBytes = DEFAULT_FRAME_BYTES;
  sendWindow = DEFAULT_WINDOW;
  readonly #streams = new Map<number, GrpcStream>();
  readonly #blocked = new Set<GrpcStream>();
  readonly #reset = new Set<number>();
  readonly #headers: HeaderDecoder;
  readonly #reader: FrameReader;
  /** Window of new streams: what the peer's settings say. */
  #streamWindow = DEFAULT_WINDOW;
  /** Bytes of DATA that came and were not given back as credit of the connection. */
  #owed = 0;
  #lastStream = 0;
  /** The header block that is under way. */
  #block: { stream: number; flags: number; parts: Uint8Array[]; bytes: number; wrong: boolean } | undefined;
  #settled = false;
  #answers = 0;
  #answerTimer: ReturnType<typeof setTimeout> | undefined;
  #closing = false;
  #closed = false;

  constructor(readonly socket: Deno.Conn, readonly limits: GrpcLimits, readonly methods: Methods) {
    this.#reader = new FrameReader(socket);
    this.#outbox = new Outbox(socket, () => this.close());
    this.out = this.#outbox.frames;
    this.#headers = new HeaderDecoder(TABLE_BYTES, limits.headerBytes);
  }

  get maxMessageBytes(): number {
    return this.limits.messageBytes;
  }

  /** Serves it to its end; never rejects. */
  async serve(): Promise<void> {
    try {
      this.out.settings([
        [Setting.maxConcurrentStreams, this.limits.streams],
        [Setting.initialWindowSize, STREAM_WINDOW],
        [Setting.maxHeaderListSize, this.limits.headerBytes],
      ]);
      this.out.windowUpdate(0, CONNECTION_WINDOW - DEFAULT_WINDOW);
      this.flushSoon();
      this.#answerTimer = setTimeout(() => this.close(), ANSWER_MS);
      if (!await this.#reader.preface()) return this.close();
      clearTimeout(this.#answerTimer);
      this.#answerTimer = undefined;
      while (!this.#closed) {
        this.#answers = 0;
        this.#frames();
        this.flushSoon();
        // Who does not read is not read from, whatever would have to be answered.
        while (this.out.bytes > UNREAD_BYTES && !this.#closed) await this.#outbox.flush();
        if (!await this.#reader.read()) break;
      }
    } catch (error) {
      if (error instanceof ConnectionError || error instanceof HpackError) {
        this.out.goAway(this.#lastStream, error instanceof HpackError ? ErrorCode.compression : error.code);
        await this.#outbox.flush();
      }
      // else the peer is gone
    }
    this.close();
  }

  /** Takes no new streams, as soon as its peer knows; ends with the last one. */
  finish(): void {
    if (this.#closing || this.#closed) return;
    this.#closing = true;
    if (!this.#settled) return this.close();
    this.out.goAway(MAX_WINDOW, ErrorCode.none);
    this.flushSoon();
    for (const stream of [...this.#streams.values()]) stream.handler.leaving?.();
    if (this.#streams.size === 0) this.#leave();
  }

  // What the peer has sent before it knew is still taken: it answers a ping after that, or is gone.
  #leave(): void {
    this.out.frame(FrameType.ping, 0, 0, 8).fill(1);
    this.flushSoon();
    this.#answerTimer ??= setTimeout(() => this.close(), ANSWER_MS);
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    clearTimeout(this.#answerTimer);
    this.#outbox.close();
    this.socket.close();
    for (const stream of [...this.#streams.values()]) stream.gone();
    this.#streams.clear();
  }

  // --- What came.

  #frames(): void {
    while (!this.#closed) {
      try {
        if (!this.#reader.next(this.#take)) return;
      } catch (error) {
        if (!(error instanceof StreamError)) throw error;
        this.#resetStream(error.stream, error.code);
      }
    }
  }

  readonly #take: TakeFrame = (type, flags, stream, payload) => {
    if (!this.#settled) {
      if (type !== FrameType.settings) throw new ConnectionError(ErrorCode.protocol, "the first frame is no SETTINGS");
      this.#settled = true;
    }
    if (this.#block !== undefined && (type !== FrameType.continuation || stream !== this.#block.stream)) {
      throw new ConnectionError(ErrorCode.protocol, "a header block is interrupted");
    }
    switch (type) {
      case FrameType.data:
        return this.#data(flags, stream, payload);
      case FrameType.headers:
        return this.#head(flags, stream, payload);
      case FrameType.continuation:
        return this.#continue(flags, payload);
      case FrameType.priority:
        return checkPriority(stream, payload, payload.length);
      case FrameType.resetStream:
        return this.#peerReset(stream, payload);
      case FrameType.settings:
        return this.#settings(flags, stream, payload);
      case FrameType.ping:
        return this.#ping(flags, stream, payload);
      case FrameType.windowUpdate:
        return this.#windowUpdate(stream, payload);
      case FrameType.goAway:
        if (stream !== 0) throw new ConnectionError(ErrorCode.protocol, "GOAWAY on a stream");
        return;
      case FrameType.pushPromise:
        throw new ConnectionError(ErrorCode.protocol, "a client pushes nothing");
    }
  };

  #data(flags: number, id: number, payload: Uint8Array): void {
    if (id === 0) throw new ConnectionError(ErrorCode.protocol, "DATA on the connection");
    this.#checkKnown(id);
    this.#owed += payload.length;
    if (this.#owed > CONNECTION_WINDOW) {
      throw new ConnectionError(ErrorCode.flowControl, "more than there was credit for");
    }
    if (this.#owed > CONNECTION_WINDOW / 4) {
      this.out.windowUpdate(0, this.#owed);
      this.#owed = 0;
    }
    const bytes = unpadded(flags, payload, 0);
    const stream = this.#open(id);
    if (stream === undefined) return;
    stream.data(bytes, payload.length);
    if (flags & Flag.endStream) stream.remoteEnd();
  }

  #head(flags: number, id: number, payload: Uint8Array): void {
    if ((id & 1) === 0) throw new ConnectionError(ErrorCode.protocol, "HEADERS on no stream of a client");
    const plain = unpadded(flags, payload, flags & Flag.priority ? 5 : 0);
    // What is wrong with its priority is said when its block is decoded: the table has to stay the peer's.
    const wrong = (flags & Flag.priority) !== 0 && selfDependent(id, payload.subarray(flags & Flag.padded ? 1 : 0));
    this.#block = { stream: id, flags, parts: [], bytes: 0, wrong };
    this.#fragment(plain, flags);
  }

  #continue(flags: number, payload: Uint8Array): void {
    if (this.#block === undefined) throw new ConnectionError(ErrorCode.protocol, "CONTINUATION of nothing");
    if (payload.length === 0) this.#answer();
    this.#fragment(payload, flags);
  }

  #fragment(bytes: Uint8Array, flags: number): void {
    const block = this.#block!;
    block.bytes += bytes.length;
    if (block.bytes > this.limits.headerBytes) {
      throw new ConnectionError(ErrorCode.enhanceYourCalm, "a header block is too large");
    }
    const whole = (flags & Flag.endHeaders) !== 0;
    if (!whole || block.parts.length > 0) block.parts.push(bytes.slice());
    if (!whole) return;
    this.#block = undefined;
    const fields = this.#headers.decode(block.parts.length > 0 ? concat(block.parts) : bytes);
    if (block.wrong) {
      this.#lastStream = Math.max(this.#lastStream, block.stream);
      throw new StreamError(block.stream, ErrorCode.protocol, "a stream depends on itself");
    }
    this.#request(block.stream, (block.flags & Flag.endStream) !== 0, fields);
  }

  #request(id: number, ends: boolean, fields: string[] | undefined): void {
    const known = this.#streams.get(id);
    if (known !== undefined || id <= this.#lastStream) {
      // Trailers, of which nothing is needed.
      const stream = known ?? this.#open(id);
      if (stream === undefined) return;
      if (!ends) throw new StreamError(id, ErrorCode.protocol, "a second head");
      if (stream.remoteEnded) throw new StreamError(id, ErrorCode.streamClosed, "a head behind the end");
      if (fields?.some((name, i) => i % 2 === 0 && name.startsWith(":"))) {
        throw new StreamError(id, ErrorCode.protocol, "a pseudo-header field in trailers");
      }
      return stream.remoteEnd();
    }
    this.#lastStream = id;
    if (fields === undefined) throw new StreamError(id, ErrorCode.enhanceYourCalm, "the head is too large");
    if (this.#streams.size >= this.limits.streams) {
      throw new StreamError(id, ErrorCode.refusedStream, "too many streams at once");
    }
    const { path, contentLength } = checkRequest(id, fields);
    const stream = new GrpcStream(id, this, this.#streamWindow, STREAM_WINDOW, contentLength);
    this.#streams.set(id, stream);
    const handler = this.methods(path, stream);
    stream.handler = handler ?? NOBODY;
    if (handler === undefined) {
      stream.remoteEnded = ends;
      return stream.close(Status.unimplemented, `there is no method ${path}`);
    }
    if (ends) stream.remoteEnd();
  }

  // The stream of a frame; undefined for one that was reset by us. Throws for one that has ended.
  #open(id: number): GrpcStream | undefined {
    const stream = this.#streams.get(id);
    if (stream?.remoteEnded) throw new StreamError(id, ErrorCode.streamClosed, "a frame behind the end of the stream");
    if (stream !== undefined || this.#reset.has(id)) return stream;
    throw new ConnectionError(ErrorCode.streamClosed, "a frame of a stream that is over");
  }

  #checkKnown(id: number): void {
    if (id > this.#lastStream || (id & 1) === 0) {
      throw new ConnectionError(ErrorCode.protocol, "a frame of a stream that was not opened");
    }
  }

  #peerReset(id: number, payload: Uint8Array): void {
    if (payload.length !== 4) throw new ConnectionError(ErrorCode.frameSize, "RST_STREAM of a wrong size");
    this.#checkKnown(id);
    const stream = this.#streams.get(id);
    if (stream === undefined) return;
    this.#streams.delete(id);
    this.#blocked.delete(stream);
    stream.gone();
    this.#emptied();
  }

  #settings(flags: number, id: number, payload: Uint8Array): void {
    if (id !== 0) throw new ConnectionError(ErrorCode.protocol, "SETTINGS on a stream");
    if (payload.length % 6 !== 0 || ((flags & Flag.ack) && payload.length > 0)) {
      throw new ConnectionError(ErrorCode.frameSize, "SETTINGS of a wrong size");
    }
    if (flags & Flag.ack) return;
    this.#answer();
    this.out.frame(FrameType.settings, Flag.ack, 0, 0); // before what they let us send
    for (let at = 0; at < payload.length; at += 6) {
      this.#setting((payload[at] << 8) | payload[at + 1], readUint32(payload, at + 2));
    }
  }

  #setting(setting: number, value: number): void {
    if (setting === Setting.enablePush && value > 1) {
      throw new ConnectionError(ErrorCode.protocol, "ENABLE_PUSH is neither 0 nor 1");
    } else if (setting === Setting.maxFrameSize) {
      if (value < DEFAULT_FRAME_BYTES || value > 0xffffff) {
        throw new ConnectionError(ErrorCode.protocol, `MAX_FRAME_SIZE is ${value}`);
      }
      this.maxFrameBytes = Math.min(value, BUFFER_BYTES);
    } else if (setting === Setting.initialWindowSize) {
      if (value > MAX_WINDOW) throw new ConnectionError(ErrorCode.flowControl, `INITIAL_WINDOW_SIZE is ${value}`);
      const change = value - this.#streamWindow;
      this.#streamWindow = value;
      for (const stream of [...this.#streams.values()]) this.#widen(stream, change);
    }
  }

  #ping(flags: number, id: number, payload: Uint8Array): void {
    if (id !== 0) throw new ConnectionError(ErrorCode.protocol, "PING on a stream");
    if (payload.length !== 8) throw new ConnectionError(ErrorCode.frameSize, "PING of a wrong size");
    if (flags & Flag.ack) {
      if (!this.#closing) return;
      // It is there. What it had begun before it knew is served to its end.
      clearTimeout(this.#answerTimer);
      this.#answerTimer = undefined;
      if (this.#streams.size === 0) this.#bye();
      return;
    }
    this.#answer();
    this.out.frame(FrameType.ping, Flag.ack, 0, 8).set(payload);
  }

  // The peer has known for a while that it is to go, and nothing is under way.
  async #bye(): Promise<void> {
    this.out.goAway(this.#lastStream, ErrorCode.none);
    await this.#outbox.flush();
    this.close();
  }

  #windowUpdate(id: number, payload: Uint8Array): void {
    if (payload.length !== 4) throw new ConnectionError(ErrorCode.frameSize, "WINDOW_UPDATE of a wrong size");
    const bytes = readUint32(payload, 0) & MAX_WINDOW;
    if (id === 0) {
      if (bytes === 0) throw new ConnectionError(ErrorCode.protocol, "WINDOW_UPDATE by nothing");
      this.sendWindow += bytes;
      if (this.sendWindow > MAX_WINDOW) throw new ConnectionError(ErrorCode.flowControl, "the window is too large");
      const blocked = [...this.#blocked];
      this.#blocked.clear();
      for (const stream of blocked) stream.drain();
      return;
    }
    this.#checkKnown(id);
    if (bytes === 0) throw new StreamError(id, ErrorCode.protocol, "WINDOW_UPDATE by nothing");
    const stream = this.#streams.get(id);
    if (stream) this.#widen(stream, bytes);
  }

  #widen(stream: GrpcStream, bytes: number): void {
    stream.sendWindow += bytes;
    if (stream.sendWindow > MAX_WINDOW) {
      throw new StreamError(stream.id, ErrorCode.flowControl, "the window is too large");
    }
    if (bytes > 0) stream.drain();
  }

  // Something wants an answer and brings nothing.
  #answer(): void {
    if (++this.#answers > MAX_ANSWERS) throw new ConnectionError(ErrorCode.enhanceYourCalm, "a flood of frames");
  }

  #resetStream(id: number, code: number): void {
    if (code !== ErrorCode.none) this.#answer();
    this.out.reset(id, code);
    this.#remember(id);
    const stream = this.#streams.get(id);
    this.#streams.delete(id);
    if (stream) this.#blocked.delete(stream);
    stream?.gone();
    this.#emptied();
  }

  #remember(id: number): void {
    this.#reset.add(id);
    if (this.#reset.size > REMEMBERED) { for (const oldest of this.#reset) return void this.#reset.delete(oldest); }
  }

  // --- What streams need.

  blocked(stream: GrpcStream): void {
    this.#blocked.add(stream);
  }

  over(stream: GrpcStream): void {
    this.#streams.delete(stream.id);
    this.#blocked.delete(stream);
    if (!stream.remoteEnded) this.#remember(stream.id);
    this.#emptied();
  }

  #emptied(): void {
    if (this.#closing && this.#streams.size === 0) this.#leave();
  }

  flushSoon(): void {
    this.#outbox.soon();
  }
}
