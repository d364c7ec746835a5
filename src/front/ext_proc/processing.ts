// SPDX-License-Identifier: Apache-2.0
// One exchange that Envoy asks about (envoy.service.ext_proc.v3, Process): the request is decided on by the same front and
// pipeline as one that came by itself; Envoy brings it to the endpoint that was chosen, and shows the answer.
//
// An answer whose body is shown FULL_DUPLEX_STREAMED reaches its client as the gateway makes it. In the other modes it
// passes as it is, at once, and the gateway looks on: what it would have changed is thrown away.

import type { Deadlines } from "../../base/deadlines.ts";
import { type GrpcStream, Status, type StreamHandler } from "../../grpc/stream.ts";
import { type HttpRequest, HttpResponse, type StreamController, type StreamSource } from "../http/exchange.ts";
import { responseMutation } from "./fields.ts";
import { answer, answerTrailers, BodyMode, decode, immediate, type Received } from "./messages.ts";
import { RequestHalf } from "./request_half.ts";
import { type Patience, ResponseHalf } from "./response_half.ts";

export const PROCESS = "/envoy.service.ext_proc.v3.ExternalProcessor/Process";

export interface ProcessingParts {
  readonly deadlines: Deadlines;
  /** What engines may take. */
  readonly patience: Patience;
  readonly bounds: {
    /** How many endpoints Envoy is told beside the chosen one. */
    fallbacks: number;
    /** Longest body that is waited for: a longer one is refused before all of it has come. */
    bodyBytes: number;
  };
  /** Answers a request; never rejects. */
  answer(request: HttpRequest): HttpResponse | Promise<HttpResponse>;
}

const EMPTY = new Uint8Array(0);

/** Takes an answer that its client gets in another way. */
class Onlooker implements StreamController {
  readonly desiredSize = 0;
  over = false;

  enqueue(): void {}

  close(): void {
    this.over = true;
  }

  error(): void {
    this.over = true;
  }
}

export class Processing implements StreamHandler, StreamController {
  /** Nothing more is to be said. */
  over = false;
  #request: RequestHalf | undefined;
  #response: ResponseHalf | undefined;
  /** How bodies are shown, as Envoy's first message says. */
  #modes = { request: BodyMode.buffered as number, response: BodyMode.streamed as number };
  #started = false;
  #responseTrailers = false;
  /** The answer that is on its way to the client. */
  #source: StreamSource | undefined;

  constructor(readonly stream: GrpcStream, readonly parts: ProcessingParts) {}

  // --- What Envoy shows.

  message(bytes: Uint8Array): void {
    let received: Received;
    try {
      received = decode(bytes);
    } catch (error) {
      this.stream.taken(bytes.length);
      return this.#fail(Status.invalidArgument, (error as Error).message);
    }
    // A piece of an answer counts as taken when it has been read.
    const kept = this.over || received.half === "request" ? 0 : received.bytes.length;
    this.stream.taken(bytes.length - kept);
    if (this.over) return;
    if (received.half === "request") this.#take(received);
    else this.#show(received);
  }

  #take(received: Received): void {
    const { part, fields, ends, bytes } = received;
    if (part === "headers") return this.#begin(fields, ends, received);
    const request = this.#request;
    if (request === undefined) return this.#fail(Status.invalidArgument, "a body without a head");
    if (part === "trailers") {
      request.trailers();
      if (this.#modes.request !== BodyMode.fullDuplex) this.stream.send(answerTrailers("request"));
    } else request.piece(bytes, ends || this.#modes.request === BodyMode.buffered); // trailers come behind the answer
    if (ends || this.#modes.request === BodyMode.buffered || request.size > this.parts.bounds.bodyBytes) {
      this.#start(request);
    }
  }

  /** Whether the answer's body is ours to send on. */
  get #streams(): boolean {
    return this.#modes.response === BodyMode.fullDuplex;
  }

  #begin(fields: readonly string[], ends: boolean, { modes, subset }: Received): void {
    if (this.#request !== undefined) return this.#fail(Status.invalidArgument, "a second head");
    const { stream, parts: { deadlines, patience, bounds } } = this;
    if (modes !== undefined) this.#modes = modes;
    const { request: mode, response: shown } = this.#modes;
    const response = new ResponseHalf(deadlines, patience, shown !== BodyMode.none, (bytes) => stream.taken(bytes));
    this.#response = response;
    this.#request = new RequestHalf(fields, ends, {
      stream,
      response,
      mode,
      among: subset,
      fallbacks: bounds.fallbacks,
      rewrites: this.#streams,
      bodyBytes: bounds.bodyBytes,
    });
    const request = this.#request;
    const tooLong = Number(request.fields.get("content-length") ?? 0) > bounds.bodyBytes;
    if (ends || tooLong) this.#start(request);
    // Once all that came with it is here: who it is from is looked at before its body is waited for.
    else if (mode === BodyMode.fullDuplex) queueMicrotask(() => this.over || this.#start(request));
    else if (mode === BodyMode.buffered) stream.send(answer("request", "headers"));
    else this.#refuse(bodyNotShown());
  }

  /** A message that is longer than any may be: a body, whose client is told so. */
  tooLong(): boolean {
    if (this.over || this.#request === undefined || this.#request.sent) return false;
    this.#request.overflow();
    this.#start(this.#request);
    return true;
  }

  // All of the request has come, or more of it than may.
  #start(request: RequestHalf): void {
    if (this.#started) return;
    this.#started = true;
    const answering = this.parts.answer(request);
    if (!(answering instanceof Promise)) return this.#answered(answering);
    answering.then((response) => this.#answered(response)).catch((error) => this.error(error));
  }

  #show({ part, fields, bytes, ends, servedBy }: Received): void {
    const response = this.#response;
    if (response === undefined) return this.#fail(Status.invalidArgument, "an answer without a request");
    if (part === "headers") response.headers(fields, ends, servedBy);
    else if (part === "body") response.piece(bytes, ends);
    else {
      this.#responseTrailers = true;
      response.end();
    }
    const { sent } = this.#request!;
    // An answer before Envoy was told anything is somebody else's, and of no concern.
    if (!sent) this.#request!.leave();
    if (sent && this.#streams) return;
    if (part === "trailers") this.stream.send(answerTrailers("response"));
    else if (part === "body" && this.#streams) this.#piece(bytes, ends);
    else this.stream.send(answer("response", part));
  }

  /** Envoy has done with the exchange. */
  ended(): void {
    this.gone();
    this.stream.close();
  }

  /** Envoy has done with it: the client has its answer or left, or the engine's connection was lost. */
  gone(): void {
    if (this.over) return;
    this.over = true;
    const response = this.#response;
    // What is on its way to the client has nobody to go to, though the engine may have said all of it.
    if (this.#source) return void this.#source.cancel();
    if (response === undefined || (response.ended && response.fields !== undefined)) return;
    if (!response.seen && response.fields !== undefined) response.end(); // that it is over is all that is shown of it
    else this.#request!.leave();
  }

  // --- What Envoy is told.

  #answered(response: HttpResponse): void {
    const source = response.stream;
    const { fields, ended, alone } = this.#response!;
    if (this.over && !ended) return void source?.cancel();
    if (fields === undefined || !this.#request!.sent) return this.#refuse(response);
    if (!this.#streams) return source && void this.#pump(source, new Onlooker());
    if (this.over) return void source?.cancel();
    if (source === undefined && String(response.status) !== fields.pseudo(":status")) return this.#refuse(response);
    this.stream.send(answer("response", "headers", responseMutation(fields, response)));
    this.#source = source;
    if (source !== undefined) return void this.#pump(source, this);
    const { body } = response;
    const bytes = typeof body === "string" ? encoder.encode(body) : body as Uint8Array ?? EMPTY;
    // A head that came alone has no body that could be changed.
    if (alone) this.over = true;
    else if (this.#responseTrailers) {
      this.enqueue(bytes);
      this.close();
    } else {
      this.over = true;
      this.#piece(bytes, true);
    }
  }

  async #pump(source: StreamSource, sink: StreamController & { readonly over: boolean }): Promise<void> {
    try {
      source.start?.(sink);
      while (!sink.over) {
        const pulling = source.pull(sink);
        if (pulling !== undefined) await pulling;
        if (sink === this && !this.stream.hasRoom) await this.stream.whenRoom();
      }
    } catch (error) {
      source.cancel();
      sink.error(error as Error);
    }
  }

  /** Below 0 while the client has not taken what it was sent. */
  get desiredSize(): number {
    return this.stream.hasRoom ? 0 : -1;
  }

  enqueue(bytes: Uint8Array): void {
    if (!this.over) this.#piece(bytes, false);
  }

  close(): void {
    if (this.over) return;
    this.over = true;
    if (this.#responseTrailers) this.stream.send(answerTrailers("response"));
    else this.#piece(EMPTY, true);
  }

  error(error: Error): void {
    this.#fail(Status.internal, error.message);
  }

  #piece(bytes: Uint8Array, ends: boolean): void {
    this.stream.send(answer("response", "body", undefined, { kind: "piece", bytes, ends }));
  }

  // An answer in place of the engine's.
  #refuse(response: HttpResponse): void {
    if (this.over) return;
    this.over = true;
    const { status, fields, body } = response;
    const details = response.get("x-aigw-reason") ?? "aigw";
    this.stream.send(immediate(status, fields, body as Uint8Array | string | null, details));
  }

  #fail(status: number, message: string): void {
    if (!this.over) {
      this.over = true;
      if (this.#source) this.#source.cancel();
      else this.#request?.leave();
    }
    this.stream.close(status, message);
  }
}

const encoder = new TextEncoder();

function bodyNotShown(): HttpResponse {
  const message = "Envoy does not show this gateway the request's body: processing_mode.request_body_mode has to be " +
    "BUFFERED or FULL_DUPLEX_STREAMED";
  const error = { message, type: "InternalServerError", param: null, code: "ext_proc_mode" };
  const response = new HttpResponse(500, JSON.stringify({ error }));
  response.append("content-type", "application/json");
  response.append("x-aigw-reason", "ext_proc_mode");
  return response;
}
