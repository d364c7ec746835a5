// SPDX-License-Identifier: Apache-2.0
// Brings an engine's answer to the client. Pieces are read only when the client has taken the last one, so a slow client
// slows its engine down and nothing piles up here. The grant is released at the true end: the last byte, the client's
// leaving, or the engine's breaking off.

import type { Deadline, Deadlines } from "../../base/deadlines.ts";
import { GatewayError } from "../../base/errors.ts";
import type { Kind } from "../../openai/api.ts";
import { errorEvents } from "../../openai/errors.ts";
import { type ReasoningStart, splitWhole } from "../../openai/reasoning.ts";
import { usageOfBody } from "../../openai/usage.ts";
import { UsageSearch } from "../../openai/usage_search.ts";
import type { Leg } from "../../scheduler/scheduler.ts";
import { WORKER_CELLS } from "../../telemetry/cells.ts";
import { type Outcome, outcomeOfStatus } from "../../telemetry/outcome.ts";
import { UpstreamError } from "../../upstream/errors.ts";
import type { ResponseHead } from "../../upstream/response_head.ts";
import { end } from "../../gateway/accounting.ts";
import { type Answer, isJson } from "../../gateway/answer.ts";
import type { Call } from "../../gateway/call.ts";
import { asGatewayError } from "../../gateway/dispatch.ts";
import { StreamTap, type TapOptions } from "../../gateway/stream_tap.ts";
import { HttpResponse, type StreamController, type StreamSource } from "./exchange.ts";
import { addHeaders, type HttpContext } from "./http_call.ts";

export interface RelayOptions extends TapOptions {
  readonly context: HttpContext;
  readonly deadlines: Deadlines;
  /** How long the client may take nothing of a stream. */
  readonly clientStallMs: number;
  /** How long a stream may be silent until a comment keeps the connection alive. */
  readonly heartbeatMs: number;
  /** Is told the id of a stored response. */
  readonly stored: ((id: string) => void) | undefined;
}

const NULL_BODY = new Set([204, 205, 304]);
const decoder = new TextDecoder();
const encoder = new TextEncoder();

/** An answer on its way to the client. */
export interface Relayed {
  readonly answer: Answer;
  readonly grant: RelayGrant;
  readonly call: Call;
  readonly kind: Kind;
  readonly options: RelayOptions;
}

/** Takes the grant over; it is released when the answer ends. Never throws. */
export function relay(relayed: Relayed): HttpResponse {
  const { answer, grant, call, options } = relayed;
  const { head, whole } = answer;
  call.status = head.status;
  if (head.status === 200) grant.leg.remember();
  if (whole !== undefined) return relayWhole({ ...relayed, whole });
  return respond(call, options.context, {
    body: new RelayStream(relayed),
    head,
    events: answer.boundary !== undefined,
  });
}

/** What the relay needs of a grant. */
export type RelayGrant = Disposable & {
  readonly leg: Pick<Leg, "remember" | "firstToken" | "heard" | "failed" | "succeeded" | "batch">;
};

/** In place of a grant for requests that carry no load. */
export const NO_GRANT: RelayGrant = {
  leg: { remember() {}, firstToken: () => -1, heard() {}, batch: 0, failed() {}, succeeded() {} },
  [Symbol.dispose]() {},
};

function relayWhole(
  { answer, whole, grant, call, kind, options }: Relayed & { whole: Uint8Array<ArrayBuffer> },
): HttpResponse {
  const { head, body, boundary } = answer;
  body.finish();
  grant.leg.firstToken();
  let bytes = whole;
  if (head.status === 200) {
    call.usage = usageOfBody(whole);
    if (call.span) call.finishReasons = finishReasonsOf(whole);
    if (options.splitReasoning && kind === "chat") bytes = splitReasoning(whole, options.splitReasoning);
    options.stored?.(idOf(decoder.decode(whole.subarray(0, 4_096))) ?? "");
  }
  call.texts?.answered(bytes);
  call.context.instruments.add(WORKER_CELLS.bytes, bytes.length);
  const events = boundary !== undefined;
  const empty = NULL_BODY.has(head.status);
  const response = respond(call, options.context, { body: empty ? null : bytes, head, events });
  if (!events && head.framing.kind !== "none" && !empty) {
    response.append("content-length", String(bytes.length));
  }
  grant[Symbol.dispose]();
  end(call, outcomeOfStatus(head.status));
  return response;
}

function finishReasonsOf(whole: Uint8Array): string[] {
  return [...decoder.decode(whole).matchAll(/"finish_reason"\s*:\s*"(\w+)"/g)].map(([, reason]) => reason);
}

function splitReasoning(whole: Uint8Array<ArrayBuffer>, start: ReasoningStart): Uint8Array<ArrayBuffer> {
  const text = decoder.decode(whole);
  if (start === "answer" && !text.includes("<think>")) return whole;
  try {
    const answer = JSON.parse(text);
    return splitWhole(answer, start) ? encoder.encode(JSON.stringify(answer)) : whole;
  } catch {
    return whole;
  }
}

/** The `id` of a stored response at the beginning of its JSON. */
function idOf(text: string): string | undefined {
  return /"id"\s*:\s*"(resp_[^"\\]{1,200})"/.exec(text)?.[1];
}

interface Responded {
  readonly body: Uint8Array<ArrayBuffer> | StreamSource | null;
  readonly head: ResponseHead;
  /** Whether the body is events. */
  readonly events: boolean;
}

function respond(call: Call, context: HttpContext, { body, head, events }: Responded): HttpResponse {
  const response = addHeaders(context, call, new HttpResponse(head.status, body));
  addEngineFields(response, head, events, context);
  if (events) {
    response.append("content-type", "text/event-stream;charset=UTF-8");
    response.append("x-accel-buffering", "no");
  } else if (response.stream && head.framing.kind === "length") {
    response.append("content-length", String(head.framing.bytes));
  }
  return response;
}

/** Adds the fields of an engine's answer, but those that are the gateway's own to set. */
export function addEngineFields(
  response: HttpResponse,
  head: ResponseHead,
  events: boolean,
  context: HttpContext,
): void {
  const own = context.origins !== undefined;
  for (const [name, value] of head.headers) {
    if (name.charCodeAt(0) === X && OWN_HEADERS.has(name)) continue;
    if (events && name === "content-type") continue;
    if (own && name.startsWith("access-control-")) continue;
    response.append(name, value);
  }
}

const X = 120;
/** Fields of the gateway's own, which an engine does not set. */
const OWN_HEADERS = new Set(["x-request-id", "x-aigw-via", "x-aigw-endpoint", "x-aigw-reason", "x-accel-buffering"]);

const HEARTBEAT = encoder.encode(": waiting\n\n");

class RelayStream implements StreamSource, Deadline {
  deadline = Infinity;
  place = -1;
  #controller: StreamController | undefined;
  #first: Uint8Array<ArrayBuffer> | undefined;
  #sawToken = false;
  /** Whether the next piece of the engine is waited for. */
  #reading = false;
  /** Since when the client has had something to take. */
  #offeredAt = 0;
  /** Whether the engine told an error of its own. */
  #failed = false;
  #over = false;
  readonly #tap: StreamTap | undefined;
  /** Of a large answer that is no stream of events. */
  readonly #usage: UsageSearch | undefined;
  readonly #answer: Answer;
  readonly #grant: RelayGrant;
  readonly #call: Call;
  readonly #kind: Kind;
  readonly #options: RelayOptions;

  constructor({ answer, grant, call, kind, options }: Relayed) {
    this.#answer = answer;
    this.#grant = grant;
    this.#call = call;
    this.#kind = kind;
    this.#options = options;
    this.#patience();
    options.deadlines.watch(this);
    this.#first = answer.first;
    if (answer.boundary) this.#tap = new StreamTap(options);
    else if (answer.head.status === 200 && isJson(answer.head)) this.#usage = new UsageSearch();
    if (answer.first) this.#stored(answer.first);
    if (answer.progress) this.#noteFirstToken();
  }

  #stored(events: Uint8Array): void {
    this.#options.stored?.(idOf(decoder.decode(events.subarray(0, 4_096))) ?? "");
  }

  #noteFirstToken(): void {
    this.#sawToken = true;
    this.#call.firstToken(this.#grant.leg);
  }

  // The client has a piece to take, or the whole answer before its first one.
  #patience(): void {
    this.#offeredAt = this.#options.deadlines.clock.now();
    this.deadline = this.#offeredAt + this.#options.clientStallMs;
  }

  /** The client took nothing for too long, or has got nothing for long: then a comment keeps its connection alive. */
  expire(): void {
    const { deadlines, clientStallMs, heartbeatMs } = this.#options;
    const now = deadlines.clock.now();
    const controller = this.#controller;
    if (this.#reading && controller !== undefined) {
      if (controller.desiredSize! >= 0) {
        this.#offeredAt = now;
        controller.enqueue(HEARTBEAT);
      }
      this.deadline = Math.min(now + heartbeatMs, this.#offeredAt + clientStallMs);
      if (now - this.#offeredAt < clientStallMs) return deadlines.watch(this);
    }
    this.cancel();
    controller?.error(new GatewayError("client_closed", "The client took nothing of the answer for too long"));
  }

  pull(controller: StreamController): void | Promise<void> {
    this.#controller = controller;
    const first = this.#first;
    this.#first = undefined;
    if (first === undefined || !this.#hand(first, controller)) return this.#read(controller);
  }

  async #read(controller: StreamController): Promise<void> {
    const { body, boundary, progress } = this.#answer;
    this.deadline = boundary === undefined ? Infinity : this.#offeredAt + this.#options.heartbeatMs;
    this.#reading = true;
    try {
      let silent = false;
      for (;;) {
        const piece = await body.readBody(silent);
        if (piece === null) return this.#finish(controller);
        const ready = boundary === undefined ? piece : boundary.push(piece);
        const tokens = progress?.tokens;
        if (ready.length > 0 && this.#hand(ready, controller)) return;
        silent = progress !== undefined && progress.tokens === tokens;
      }
    } catch (error) {
      this.#break(error, controller);
    } finally {
      this.#reading = false;
    }
  }

  // Hands whole events on; false when nothing of them is for the client.
  #hand(ready: Uint8Array<ArrayBuffer>, controller: StreamController): boolean {
    const { context: { instruments }, account } = this.#call;
    const { progress } = this.#answer;
    let plain = false;
    // All that was read before the first token has been looked at.
    if (progress === undefined) {
      if (!this.#sawToken) this.#noteFirstToken();
    } else {
      if (ready !== this.#answer.first) plain = progress.look(ready);
      if (progress.tokens !== this.#call.tokens) this.#grant.leg.heard();
      this.#call.tokens = progress.tokens;
      if (this.#call.span) this.#call.finishReasons = progress.finishReasons;
      account?.generated(progress.tokens);
      if ((progress.error?.blamesEngine || progress.aborted) && !this.#failed) {
        this.#failed = true;
        this.#grant.leg.failed();
      }
    }
    instruments.add(WORKER_CELLS.pieces);
    instruments.add(WORKER_CELLS.bytes, ready.length);
    this.#usage?.look(ready);
    const passed = this.#tap === undefined ? ready : this.#tap.pass(ready, plain);
    if (passed.length === 0) return false;
    if (this.#tap !== undefined) this.#call.texts?.streamed(passed);
    this.#patience();
    controller.enqueue(passed);
    return true;
  }

  #finish(controller: StreamController): void {
    if (this.#over) return; // the client left first: the grant is another's by now
    const { boundary, progress, body, head } = this.#answer;
    const rest = boundary?.rest();
    if (rest !== undefined) this.#hand(rest, controller);
    const held = this.#tap?.rest();
    if (held !== undefined && held.length > 0) {
      this.#call.texts?.streamed(held);
      controller.enqueue(held);
    }
    if (progress && !progress.ended && !progress.error) {
      throw new UpstreamError("lost_in_answer", "the engine ended its stream without finishing its answer");
    }
    body.finish();
    if (head.status < 500 && !this.#failed) this.#grant.leg.succeeded();
    this.#end(this.#outcome());
    controller.close();
  }

  #outcome(): Outcome {
    const { error, aborted } = this.#answer.progress ?? {};
    if (aborted) return "stream_failed";
    if (error !== undefined) return error.blamesEngine ? "stream_failed" : "engine_rejected";
    return outcomeOfStatus(this.#answer.head.status);
  }

  // An event stream ends with an event that says why; any other answer is cut, so that nobody takes it for complete.
  #break(error: unknown, controller: StreamController): void {
    if (this.#over) return; // the client left first
    const { body, boundary, progress } = this.#answer;
    body.close();
    if (progress && (progress.ended || progress.error) && error instanceof UpstreamError && error.endpointFailed) {
      // The answer was whole, or its error told, before the connection was lost: the client has it all.
      if (progress.error) this.#failed ||= progress.error.blamesEngine;
      this.#end(this.#outcome());
      return controller.close();
    }
    const failure = error instanceof UpstreamError
      ? asGatewayError(error, this.#call)
      : new GatewayError("internal", "The gateway failed while streaming", null, error);
    if (error instanceof UpstreamError && error.endpointFailed) this.#grant.leg.failed();
    this.#call.texts?.failed(failure.message);
    const { code } = failure;
    const ours = code === "client_closed" || code === "draining" || code === "deadline_exceeded";
    this.#end(ours ? code : "stream_broken");
    if (code === "client_closed") controller.close();
    else if (boundary) {
      controller.enqueue(encoder.encode(errorEvents(failure, this.#kind)));
      controller.close();
    } else controller.error(failure);
  }

  /** The client left. */
  cancel(): void {
    this.#answer.body.fail(new UpstreamError("aborted", "the client left"));
    this.#end("client_closed");
  }

  #end(outcome: Outcome): void {
    this.#over = true;
    this.#options.deadlines.unwatch(this);
    const usage = this.#tap?.usage ?? this.#usage?.usage;
    if (usage) this.#call.usage = usage;
    this.#grant[Symbol.dispose]();
    end(this.#call, outcome);
  }
}
