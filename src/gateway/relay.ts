// SPDX-License-Identifier: Apache-2.0
// Brings an engine's answer to the client. Pieces are read only when the client has taken the last one, so a slow client
// slows its engine down and nothing piles up here. The slot is released at the true end: the last byte, the client's
// leaving, or the engine's breaking off.

import type { Deadline, Deadlines } from "../base/deadlines.ts";
import { GatewayError } from "../base/errors.ts";
import { errorEvent } from "../openai/errors.ts";
import { EventBoundary } from "../openai/event_boundary.ts";
import type { Slot } from "../scheduler/scheduler.ts";
import { WORKER_CELLS } from "../telemetry/instruments.ts";
import { type Outcome, outcomeOfStatus } from "../telemetry/outcome.ts";
import { UpstreamError } from "../upstream/errors.ts";
import { type Answer, asGatewayError } from "./dispatch.ts";
import type { Exchange } from "./exchange.ts";

export interface RelayLimits {
  readonly deadlines: Deadlines;
  /** How long the client may take nothing of a stream. */
  readonly clientStallMs: number;
}

/** Answers up to this size are read whole, so that one that breaks off is an error and not half an answer. */
const WHOLE_BYTES = 1_048_576;
const NULL_BODY = new Set([204, 205, 304]);

/** Takes the slot over. Throws GatewayError when a whole answer breaks off. */
export async function relay(answer: Answer, slot: Slot, exchange: Exchange, limits: RelayLimits): Promise<Response> {
  const { head, connection, pool } = answer;
  exchange.status = head.status;
  if (head.status === 200) slot.remember();
  const { framing } = head;
  const whole = framing.kind === "none" || (framing.kind === "length" && framing.bytes <= WHOLE_BYTES);
  try {
    if (!whole && !NULL_BODY.has(head.status)) {
      return respond(new RelayStream(answer, slot, exchange, limits).stream(), answer, exchange);
    }
    const body = framing.kind === "length" && whole ? await readWhole(answer, framing.bytes) : new Uint8Array(0);
    slot.firstToken();
    exchange.firstToken();
    exchange.context.instruments.add(WORKER_CELLS.bytes, body.length);
    const response = respond(NULL_BODY.has(head.status) ? null : body, answer, exchange);
    pool.give(connection);
    slot[Symbol.dispose]();
    exchange.end(outcomeOfStatus(head.status));
    return response;
  } catch (error) {
    connection.close();
    slot[Symbol.dispose]();
    throw error instanceof UpstreamError ? asGatewayError(error, exchange) : error;
  }
}

async function readWhole({ connection }: Answer, length: number): Promise<Uint8Array<ArrayBuffer>> {
  const first = await connection.readBody();
  // Fast path: a small answer arrives in one piece.
  if (first === null || first.length === length) return first ?? new Uint8Array(0);
  const body = new Uint8Array(length);
  body.set(first);
  let at = first.length;
  for (let piece = await connection.readBody(); piece !== null; piece = await connection.readBody()) {
    body.set(piece, at);
    at += piece.length;
  }
  return body;
}

function isEventStream(head: Answer["head"]): boolean {
  return head.headers.some(([name, value]) => name === "content-type" && value.startsWith("text/event-stream"));
}

function respond(body: BodyInit | null, { head }: Answer, exchange: Exchange): Response {
  const response = exchange.addHeaders(new Response(body, { status: head.status }));
  const { headers } = response;
  const events = isEventStream(head);
  for (const [name, value] of head.headers) {
    if (name === "x-request-id" || name === "x-aigw-via" || name === "x-aigw-endpoint") continue;
    if (events && (name === "content-type" || name === "x-accel-buffering")) continue;
    headers.append(name, value);
  }
  if (events) {
    headers.append("content-type", "text/event-stream;charset=UTF-8");
    headers.append("x-accel-buffering", "no");
  } else if (head.framing.kind === "length") headers.append("content-length", String(head.framing.bytes));
  return response;
}

class RelayStream implements UnderlyingDefaultSource<Uint8Array>, Deadline {
  deadline = Infinity;
  place = -1;
  readonly #limits: RelayLimits;
  #controller: ReadableStreamDefaultController<Uint8Array> | undefined;
  readonly #boundary: EventBoundary | undefined;
  readonly #answer: Answer;
  readonly #slot: Slot;
  readonly #exchange: Exchange;
  #first = true;

  constructor(answer: Answer, slot: Slot, exchange: Exchange, limits: RelayLimits) {
    this.#limits = limits;
    this.#patience();
    limits.deadlines.watch(this);
    this.#answer = answer;
    this.#slot = slot;
    this.#exchange = exchange;
    const encoded = answer.head.headers.some(([name]) => name === "content-encoding");
    if (isEventStream(answer.head) && !encoded) this.#boundary = new EventBoundary();
  }

  stream(): ReadableStream<Uint8Array<ArrayBuffer>> {
    return new ReadableStream(this as UnderlyingDefaultSource<Uint8Array<ArrayBuffer>>, { highWaterMark: 0 });
  }

  // The client has a piece to take, or the whole answer before its first one.
  #patience(): void {
    this.deadline = this.#limits.deadlines.clock.now() + this.#limits.clientStallMs;
  }

  /** The client took nothing for too long. */
  expire(): void {
    this.cancel();
    this.#controller?.error(new GatewayError("client_closed", "The client took nothing of the answer for too long"));
  }

  async pull(controller: ReadableStreamDefaultController<Uint8Array>): Promise<void> {
    this.#controller = controller;
    this.deadline = Infinity;
    try {
      for (;;) {
        const piece = await this.#answer.connection.readBody();
        if (piece === null) {
          const rest = this.#boundary?.rest();
          if (rest !== undefined) controller.enqueue(rest);
          this.#answer.pool.give(this.#answer.connection);
          this.#end(outcomeOfStatus(this.#answer.head.status));
          controller.close();
          return;
        }
        if (this.#first) {
          this.#first = false;
          this.#slot.firstToken();
          this.#exchange.firstToken();
        }
        const { instruments } = this.#exchange.context;
        instruments.add(WORKER_CELLS.pieces);
        instruments.add(WORKER_CELLS.bytes, piece.length);
        const ready = this.#boundary === undefined ? piece : this.#boundary.push(piece);
        if (ready.length === 0) continue;
        this.#patience();
        controller.enqueue(ready);
        return;
      }
    } catch (error) {
      this.#break(error, controller);
    }
  }

  // An event stream ends with an event that says why; any other answer is cut, so that nobody takes it for complete.
  #break(error: unknown, controller: ReadableStreamDefaultController<Uint8Array>): void {
    this.#answer.connection.close();
    const failure = error instanceof UpstreamError
      ? asGatewayError(error, this.#exchange)
      : new GatewayError("internal", "The gateway failed while streaming", null, error);
    const { code } = failure;
    this.#end(code === "client_closed" || code === "draining" ? code : "stream_broken");
    if (failure.code === "client_closed") controller.close();
    else if (this.#boundary) {
      controller.enqueue(new TextEncoder().encode(errorEvent(failure)));
      controller.close();
    } else controller.error(failure);
  }

  /** The client left. */
  cancel(): void {
    this.#answer.connection.close();
    this.#end("client_closed");
  }

  #end(outcome: Outcome): void {
    this.#limits.deadlines.unwatch(this);
    this.#slot[Symbol.dispose]();
    this.#exchange.end(outcome);
  }
}
