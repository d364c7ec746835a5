// SPDX-License-Identifier: Apache-2.0
// Brings an engine's answer to the client. Pieces are read only when the client has taken the last one, so a slow client
// slows its engine down and nothing piles up here. The grant is released at the true end: the last byte, the client's
// leaving, or the engine's breaking off.

import type { Deadline, Deadlines } from "../../base/deadlines.ts";
import { GatewayError } from "../../base/errors.ts";
import type { Kind } from "../../openai/api.ts";
import { errorEvents } from "../../openai/errors.ts";
import { forEachEvent } from "../../openai/events.ts";
import { splitWhole } from "../../openai/reasoning.ts";
import { usageOfBody } from "../../openai/usage.ts";
import type { Leg } from "../../scheduler/scheduler.ts";
import { WORKER_CELLS } from "../../telemetry/instruments.ts";
import { type Outcome, outcomeOfStatus } from "../../telemetry/outcome.ts";
import { UpstreamError } from "../../upstream/errors.ts";
import type { ResponseHead } from "../../upstream/response_head.ts";
import { end } from "../../gateway/accounting.ts";
import type { Answer } from "../../gateway/answer.ts";
import type { Call } from "../../gateway/call.ts";
import { asGatewayError } from "../../gateway/dispatch.ts";
import { StreamTap, type TapOptions } from "../../gateway/stream_tap.ts";
import { addHeaders, type HttpContext } from "./http_call.ts";

export interface RelayOptions extends TapOptions {
  readonly context: HttpContext;
  readonly deadlines: Deadlines;
  /** How long the client may take nothing of a stream. */
  readonly clientStallMs: number;
  /** Is told the id of a stored response. */
  readonly stored: ((id: string) => void) | undefined;
}

const NULL_BODY = new Set([204, 205, 304]);
const decoder = new TextDecoder();
const encoder = new TextEncoder();

/** Takes the grant over; it is released when the answer ends. Never throws. */
export function relay(
  answer: Answer,
  grant: RelayGrant,
  call: Call,
  kind: Kind,
  options: RelayOptions,
): Response {
  const { head, whole } = answer;
  call.status = head.status;
  if (head.status === 200) grant.leg.remember();
  if (whole !== undefined) return relayWhole(answer, whole, grant, call, kind, options);
  const stream = new RelayStream(answer, grant, call, kind, options);
  return respond(stream.stream(), head, answer.boundary !== undefined, call, options.context);
}

/** What the relay needs of a grant. */
export type RelayGrant = Disposable & {
  readonly leg: Pick<Leg, "remember" | "firstToken" | "failed" | "succeeded" | "batch">;
};

/** In place of a grant for requests that carry no load. */
export const NO_GRANT: RelayGrant = {
  leg: { remember() {}, firstToken: () => -1, batch: 0, failed() {}, succeeded() {} },
  [Symbol.dispose]() {},
};

function relayWhole(
  { head, body, boundary }: Answer,
  whole: Uint8Array<ArrayBuffer>,
  grant: RelayGrant,
  call: Call,
  kind: Kind,
  options: RelayOptions,
): Response {
  body.finish();
  grant.leg.firstToken();
  let bytes = whole;
  if (head.status === 200) {
    call.usage = usageOfBody(whole);
    if (options.splitReasoning && kind === "chat") bytes = splitReasoning(whole);
    options.stored?.(idOf(decoder.decode(whole.subarray(0, 4_096))) ?? "");
  }
  call.context.instruments.add(WORKER_CELLS.bytes, bytes.length);
  const events = boundary !== undefined;
  const response = respond(NULL_BODY.has(head.status) ? null : bytes, head, events, call, options.context);
  if (!events && head.framing.kind !== "none" && !NULL_BODY.has(head.status)) {
    response.headers.append("content-length", String(bytes.length));
  }
  grant[Symbol.dispose]();
  end(call, outcomeOfStatus(head.status));
  return response;
}

function splitReasoning(whole: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  const text = decoder.decode(whole);
  if (!text.includes("<think>")) return whole;
  try {
    const answer = JSON.parse(text);
    return splitWhole(answer) ? encoder.encode(JSON.stringify(answer)) : whole;
  } catch {
    return whole;
  }
}

/** The `id` of a stored response at the beginning of its JSON. */
function idOf(text: string): string | undefined {
  return /"id"\s*:\s*"(resp_[^"\\]{1,200})"/.exec(text)?.[1];
}

function respond(
  body: BodyInit | null,
  head: ResponseHead,
  events: boolean,
  call: Call,
  context: HttpContext,
): Response {
  const response = addHeaders(context, call, new Response(body, { status: head.status }));
  const { headers } = response;
  const own = context.origins !== undefined;
  for (const [name, value] of head.headers) {
    if (name.charCodeAt(0) === X && OWN_HEADERS.has(name)) continue;
    if (events && name === "content-type") continue;
    if (own && name.startsWith("access-control-")) continue;
    headers.append(name, value);
  }
  if (events) {
    headers.append("content-type", "text/event-stream;charset=UTF-8");
    headers.append("x-accel-buffering", "no");
  } else if (body instanceof ReadableStream && head.framing.kind === "length") {
    headers.append("content-length", String(head.framing.bytes));
  }
  return response;
}

const X = 120;
/** Fields of the gateway's own, which an engine does not set. */
const OWN_HEADERS = new Set(["x-request-id", "x-aigw-via", "x-aigw-endpoint", "x-aigw-reason", "x-accel-buffering"]);

class RelayStream implements UnderlyingDefaultSource<Uint8Array>, Deadline {
  deadline = Infinity;
  place = -1;
  #controller: ReadableStreamDefaultController<Uint8Array> | undefined;
  #first: Uint8Array<ArrayBuffer> | undefined;
  #opening: Answer["opening"];
  #sawToken = false;
  #over = false;
  readonly #tap: StreamTap | undefined;

  constructor(
    readonly answer: Answer,
    readonly grant: RelayGrant,
    readonly call: Call,
    readonly kind: Kind,
    readonly options: RelayOptions,
  ) {
    this.#patience();
    options.deadlines.watch(this);
    this.#first = answer.first;
    this.#opening = answer.opening;
    this.#opening?.catch(() => {/* told to whoever pulls */});
    if (answer.boundary) this.#tap = new StreamTap(options);
    if (answer.first) this.#stored(answer.first);
  }

  #stored(events: Uint8Array): void {
    this.options.stored?.(idOf(decoder.decode(events.subarray(0, 4_096))) ?? "");
  }

  stream(): ReadableStream<Uint8Array<ArrayBuffer>> {
    return new ReadableStream(this as UnderlyingDefaultSource<Uint8Array<ArrayBuffer>>, { highWaterMark: 0 });
  }

  // The client has a piece to take, or the whole answer before its first one.
  #patience(): void {
    this.deadline = this.options.deadlines.clock.now() + this.options.clientStallMs;
  }

  /** The client took nothing for too long. */
  expire(): void {
    this.cancel();
    this.#controller?.error(new GatewayError("client_closed", "The client took nothing of the answer for too long"));
  }

  pull(controller: ReadableStreamDefaultController<Uint8Array>): void | Promise<void> {
    this.#controller = controller;
    this.deadline = Infinity;
    const first = this.#first;
    if (first === undefined) return this.#read(controller);
    this.#first = undefined;
    if (!this.#hand(first, controller)) return this.#read(controller);
  }

  async #read(controller: ReadableStreamDefaultController<Uint8Array>): Promise<void> {
    const { body, boundary } = this.answer;
    try {
      if (this.#opening) {
        const events = await this.#opening;
        this.#opening = undefined;
        if (events === null) return this.#finish(controller);
        this.#stored(events);
        if (this.#hand(events, controller)) return;
      }
      for (;;) {
        const piece = await body.readBody();
        if (piece === null) return this.#finish(controller);
        const ready = boundary === undefined ? piece : boundary.push(piece);
        if (ready.length > 0 && this.#hand(ready, controller)) return;
      }
    } catch (error) {
      this.#break(error, controller);
    }
  }

  // Hands whole events on; false when nothing of them is for the client.
  #hand(ready: Uint8Array<ArrayBuffer>, controller: ReadableStreamDefaultController<Uint8Array>): boolean {
    if (!this.#sawToken) this.#look(ready);
    const { instruments } = this.call.context;
    instruments.add(WORKER_CELLS.pieces);
    this.call.account?.piece();
    instruments.add(WORKER_CELLS.bytes, ready.length);
    const passed = this.#tap === undefined ? ready : this.#tap.pass(ready);
    if (passed.length === 0) return false;
    this.#patience();
    controller.enqueue(passed);
    return true;
  }

  // Comments and pings are no token.
  #look(ready: Uint8Array): void {
    if (this.answer.boundary) {
      forEachEvent(ready, (start, end) => this.#sawToken ||= isToken(this.kind, ready, start, end));
    } else this.#sawToken = true;
    if (!this.#sawToken) return;
    this.call.firstToken(this.grant.leg);
  }

  #finish(controller: ReadableStreamDefaultController<Uint8Array>): void {
    if (this.#over) return; // the client left first: the grant is another's by now
    const rest = this.answer.boundary?.rest();
    if (rest !== undefined) this.#hand(rest, controller);
    const held = this.#tap?.rest();
    if (held !== undefined && held.length > 0) controller.enqueue(held);
    this.answer.body.finish();
    if (this.answer.head.status < 500) this.grant.leg.succeeded();
    this.#end(outcomeOfStatus(this.answer.head.status));
    controller.close();
  }

  // An event stream ends with an event that says why; any other answer is cut, so that nobody takes it for complete.
  #break(error: unknown, controller: ReadableStreamDefaultController<Uint8Array>): void {
    if (this.#over) return; // the client left first
    this.answer.body.close();
    const failure = error instanceof UpstreamError
      ? asGatewayError(error, this.call)
      : new GatewayError("internal", "The gateway failed while streaming", null, error);
    if (error instanceof UpstreamError && error.endpointFailed) this.grant.leg.failed();
    const { code } = failure;
    const ours = code === "client_closed" || code === "draining" || code === "deadline_exceeded";
    this.#end(ours ? code : "stream_broken");
    if (code === "client_closed") controller.close();
    else if (this.answer.boundary) {
      controller.enqueue(encoder.encode(errorEvents(failure, this.kind)));
      controller.close();
    } else controller.error(failure);
  }

  /** The client left. */
  cancel(): void {
    this.answer.body.fail(new UpstreamError("aborted", "the client left"));
    this.#end("client_closed");
  }

  #end(outcome: Outcome): void {
    this.#over = true;
    this.options.deadlines.unwatch(this);
    if (this.#tap?.usage) this.call.usage = this.#tap.usage;
    this.grant[Symbol.dispose]();
    end(this.call, outcome);
  }
}

/** Whether an event brings generated text: not a comment, a ping, or what is told before the first token. */
function isToken(kind: Kind, events: Uint8Array, start: number, end: number): boolean {
  if (kind === "messages" || kind === "responses") return decoder.decode(events.subarray(start, end)).includes("delta");
  // Fast path: `data:` opens the event. Others name their type first, or are comments.
  if (events[start] === D) return true;
  return decoder.decode(events.subarray(start, end)).includes("\ndata:");
}

const D = 100;
