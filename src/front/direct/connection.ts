// SPDX-License-Identifier: Apache-2.0
// One client's connection over a plain socket: HTTP/1.1, a request at a time. While a request is answered the next bytes
// are read for, so that a client that leaves is noticed: one that has reset its connection has left; one that has only
// ended its side may still be listening, so it is written a word that costs it nothing, and has left if that fails.

import type { Deadline, Deadlines } from "../../base/deadlines.ts";
import { utf8Length } from "../../base/utf8.ts";
import { writeHead } from "../../upstream/request_head.ts";
import type { HttpRequest, HttpResponse } from "../http/exchange.ts";
import { AnswerStream } from "./answer_stream.ts";
import { type DirectHead, endOfHead, HeadError, parseRequestHead } from "./request_head.ts";
import { DirectRequest } from "./request.ts";
import { hasNoBody, responseHead } from "./response_head.ts";
import { borrow, giveBack, SEND_BYTES, writeFully } from "../../upstream/send_buffers.ts";

export interface DirectLimits {
  /** Longest head, and most fields of one. */
  headBytes: number;
  headFields: number;
  /** From a head's first byte to its last, from the connection's begin for the first one. */
  headMs: number;
  /** Between two requests. */
  idleMs: number;
  /** Between two words to a client that has ended its side; 0 for never. */
  lookMs: number;
}

/** What a connection is for. */
export interface DirectConnectionParts {
  readonly deadlines: Deadlines;
  readonly limits: DirectLimits;
  /** Answers a request; never rejects. */
  answer(request: HttpRequest): HttpResponse | Promise<HttpResponse>;
  /** An answer to what is no request. */
  refusal(status: number, message: string): HttpResponse;
}

/** What most requests fit into, and what a connection gets whose requests do not. */
const BUFFER_BYTES = 2_048;
const LARGE_BUFFER_BYTES = 16_384;
const INTERIM = new TextEncoder().encode("HTTP/1.1 100 Continue\r\n\r\n");
const COMMENT = new TextEncoder().encode(": \n\n");
/** Words to a client that has ended its side: the second one fails where the first has met nobody. */
const WORDS = 2;
/** What a client still sends behind a refusal is read for so long, or up to so much, that it may read the refusal. */
const LINGER_MS = 1_000;
const LINGER_BYTES = 262_144;
const encoder = new TextEncoder();

export class DirectConnection implements Deadline {
  deadline = Infinity;
  place = -1;
  #buffer = new Uint8Array(BUFFER_BYTES);
  #start = 0;
  #end = 0;
  /** A read of what comes after the request that is being answered. */
  #ahead: Promise<number | null> | undefined;
  #ended = false;
  #closed = false;
  #closing = false;
  /** Whether no request is under way. */
  #idle = true;
  /** Is called when the client of the request under way leaves. */
  #leave: (() => void) | undefined;
  #stream: AnswerStream | undefined;
  /** Takes back that a client which has ended its side is written a word. */
  #asking: (() => void) | undefined;
  #head: DirectHead | undefined;
  /** Whether a head came too late: what still comes of it is read and left. */
  #late = false;
  /** Whether the answer under way has begun to be written. */
  #answering = false;

  constructor(readonly socket: Deno.TcpConn, readonly parts: DirectConnectionParts) {
    socket.setNoDelay(true);
    this.deadline = parts.deadlines.clock.now() + parts.limits.headMs;
    parts.deadlines.watch(this);
  }

  /** Serves it to its end; never rejects. */
  async serve(): Promise<void> {
    try {
      while (await this.#exchange());
    } catch (error) {
      if (error instanceof HeadError) await this.#refuse(error).catch(() => {});
      // else the client is gone
    }
    this.close();
  }

  /** It takes no further request; one that is under way is answered. */
  finish(): void {
    this.#closing = true;
    if (this.#idle && this.#start === this.#end) this.close();
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.parts.deadlines.unwatch(this);
    this.socket.close();
  }

  /** Its head did not come in time, or nothing did for long. */
  expire(): void {
    if (this.#late || (this.#start === this.#end && this.#idle)) return this.close();
    // The read for the head goes on, for as long as a client may need to see the refusal.
    this.#late = true;
    this.deadline = this.parts.deadlines.clock.now() + LINGER_MS;
    this.parts.deadlines.watch(this);
    this.#answerRefusal(new HeadError(408, `the head did not arrive within ${this.parts.limits.headMs} ms`))
      .catch(() => this.close());
  }

  // One request and its answer; false when there is to be no other.
  async #exchange(): Promise<boolean> {
    const head = this.#takeHead() ?? await this.#readHead();
    if (head === undefined) return false;
    this.#head = head;
    this.#idle = false;
    this.#answering = false;
    this.deadline = Infinity;
    const request = new DirectRequest(this, head);
    const answering = this.parts.answer(request);
    if (request.body.done) this.#readAhead();
    const answer = answering instanceof Promise ? await answering : answering;
    this.#answering = true;
    request.body.discard();
    const ends = !head.keepAlive || this.#closing || !request.body.done || answer.get("connection") === "close";
    const whole = await this.#respond(answer, head, ends);
    this.#answered();
    if (!whole) return false;
    if (ends) {
      if (!request.body.done) {
        await this.socket.closeWrite();
        await this.#linger();
      }
      return false;
    }
    this.deadline = this.parts.deadlines.clock.now() + this.parts.limits.idleMs;
    return !this.#closed;
  }

  // A head that is in the buffer already, as of clients that do not wait for answers.
  #takeHead(searched = this.#start): DirectHead | undefined {
    if (this.#start === this.#end) return undefined;
    // Some clients end a body with an empty line.
    if (this.#buffer[this.#start] === 13 && this.#buffer[this.#start + 1] === 10 && this.#end - this.#start > 1) {
      this.#start += 2;
      return this.#takeHead();
    }
    const end = endOfHead(this.#buffer, this.#start, searched, this.#end);
    const { headBytes, headFields } = this.parts.limits;
    if (end < 0 ? this.#end - this.#start > headBytes : end - this.#start > headBytes) {
      throw new HeadError(431, `the head is longer than ${headBytes} bytes`);
    }
    if (end < 0) return undefined;
    const head = parseRequestHead(this.#buffer, this.#start, end, headFields);
    this.#start = end;
    return head;
  }

  async #readHead(): Promise<DirectHead | undefined> {
    for (;;) {
      const begun = this.#end > this.#start;
      const known = this.#end - this.#start;
      if (!await this.#fill()) {
        if (begun && !this.#late) throw new HeadError(400, "the connection ends inside a head");
        return undefined;
      }
      if (this.#late) {
        this.#start = this.#end;
        continue;
      }
      if (!begun) {
        this.#idle = false;
        this.deadline = this.parts.deadlines.clock.now() + this.parts.limits.headMs;
      }
      const head = this.#takeHead(this.#start + Math.max(0, known - 1));
      if (head !== undefined) return head;
    }
  }

  // Reads more into the buffer; false at the end of what the client sends.
  async #fill(): Promise<boolean> {
    if (this.#ended) return false;
    if (this.#ahead === undefined) this.#makeRoom();
    const n = await (this.#ahead ?? this.socket.read(this.#buffer.subarray(this.#end)));
    this.#ahead = undefined;
    if (n === null) {
      this.#ended = true;
      return false;
    }
    this.#end += n;
    return true;
  }

  #makeRoom(): void {
    if (this.#start === this.#end) this.#start = this.#end = 0;
    if (this.#end < this.#buffer.length) return;
    const size = this.#start > 0 ? this.#buffer.length : Math.max(LARGE_BUFFER_BYTES, 2 * this.#buffer.length);
    const target = new Uint8Array(size);
    target.set(this.#buffer.subarray(this.#start, this.#end));
    this.#buffer = target;
    this.#end -= this.#start;
    this.#start = 0;
  }

  // Between a request's last byte and its answer's: whoever leaves says so here.
  #readAhead(): void {
    if (this.#ahead !== undefined || this.#ended || this.#closed || this.#start < this.#end) return;
    this.#makeRoom();
    const reading = this.#ahead = this.socket.read(this.#buffer);
    reading.then((n) => {
      if (n === null) this.#ask(WORDS);
    }, () => this.#left());
  }

  #left(): void {
    this.#leave?.();
    this.#stream?.cancel();
  }

  // Whether a client that has ended its side still listens: looked for after a while, as most answers are there by then.
  #ask(words: number): void {
    const { deadlines: { clock }, limits: { lookMs } } = this.parts;
    if (lookMs === 0 || words === 0 || this.#head === undefined || this.#head.old) return;
    this.#asking = clock.after(lookMs, async () => {
      this.#asking = undefined;
      try {
        if (!this.#answering) await writeFully(this.socket, INTERIM, INTERIM.length);
        else if (this.#stream?.takesComments) this.#stream.enqueue(COMMENT);
        else return;
        this.#ask(words - 1);
      } catch {
        this.#left();
      }
    });
  }

  #answered(): void {
    this.#leave = undefined;
    this.#head = undefined;
    this.#idle = true;
    this.#asking?.();
    this.#asking = undefined;
  }

  /** Is told of the leaving of the request's client. */
  set leave(leave: () => void) {
    this.#leave = leave;
  }

  // --- What bodies need.

  /** Bytes that have come and belong to nobody yet; they are the buffer's. */
  get arrived(): Uint8Array<ArrayBuffer> {
    return this.#buffer.subarray(this.#start, this.#end);
  }

  consume(bytes: number): void {
    this.#start += bytes;
  }

  /** Reads more; rejects when the client has ended its side. */
  async more(): Promise<void> {
    if (!await this.#fill()) throw new Error("the client ended its side inside a body");
  }

  /** Reads into `target` past the buffer, which is empty; as `more`. */
  async into(target: Uint8Array): Promise<number> {
    const n = await this.socket.read(target);
    if (n === null) {
      this.#ended = true;
      throw new Error("the client ended its side inside a body");
    }
    return n;
  }

  /** Tells a client that waits for it that its body is wanted. */
  async goOn(): Promise<void> {
    await writeFully(this.socket, INTERIM, INTERIM.length);
  }

  /** A body has been read whole. */
  bodyRead(): void {
    this.#readAhead();
  }

  // --- Answers.

  // Resolves with whether all of it has been written.
  async #respond(answer: HttpResponse, { method, old }: DirectHead, ends: boolean): Promise<boolean> {
    const { stream, status } = answer;
    const kept = ends ? "close" : old ? "keep-alive" : undefined;
    const announced = answer.get("content-length");
    if (stream !== undefined) {
      if (method === "HEAD" || hasNoBody(status)) {
        stream.cancel();
        return this.#write(responseHead(answer, "none", undefined, kept), undefined);
      }
      const framing = announced !== undefined ? "length" : old ? "close" : "chunked";
      const events = answer.get("content-type")?.startsWith("text/event-stream") ?? false;
      const head = responseHead(answer, framing, undefined, framing === "close" ? "close" : kept);
      const sending = new AnswerStream(this.socket, stream, head, framing === "chunked", events);
      this.#stream = sending;
      const whole = await sending.send();
      this.#stream = undefined;
      return whole && framing !== "close";
    }
    const body = answer.body as Uint8Array<ArrayBuffer> | string | null;
    if (hasNoBody(status)) return this.#write(responseHead(answer, "none", undefined, kept), undefined);
    const length = body === null ? 0 : typeof body === "string" ? utf8Length(body) : body.length;
    const head = responseHead(answer, "length", announced === undefined ? length : undefined, kept);
    return this.#write(head, method === "HEAD" || body === null ? undefined : body);
  }

  // In one write where it fits.
  async #write(head: string, body: Uint8Array<ArrayBuffer> | string | undefined): Promise<boolean> {
    const bytes = typeof body === "string" ? encoder.encode(body) : body;
    const buffer = borrow();
    try {
      let at = writeHead(head, buffer);
      if (bytes !== undefined && at + bytes.length <= SEND_BYTES) {
        buffer.set(bytes, at);
        at += bytes.length;
        await writeFully(this.socket, buffer, at);
      } else {
        await writeFully(this.socket, buffer, at);
        if (bytes !== undefined) await writeFully(this.socket, bytes, bytes.length);
      }
      giveBack(buffer);
      return true;
    } catch {
      return false;
    }
  }

  async #refuse(error: HeadError): Promise<void> {
    this.deadline = Infinity;
    await this.#answerRefusal(error);
    await this.#linger();
  }

  async #answerRefusal({ status, message }: HeadError): Promise<void> {
    const answer = this.parts.refusal(status, message);
    await this.#write(
      responseHead(answer, "length", utf8Length(answer.body as string), "close"),
      answer.body as string,
    );
    if (!this.#ended && !this.#closed) await this.socket.closeWrite();
  }

  // A close while the client still sends would reset the connection, and the answer with it.
  async #linger(): Promise<void> {
    if (this.#ended || this.#closed) return;
    this.#idle = true;
    this.#start = this.#end = 0;
    this.deadline = this.parts.deadlines.clock.now() + LINGER_MS;
    const scrap = new Uint8Array(BUFFER_BYTES);
    for (let read = 0; read < LINGER_BYTES;) {
      const n = await (this.#ahead ?? this.socket.read(scrap));
      this.#ahead = undefined;
      if (n === null) return;
      read += n;
    }
  }
}
