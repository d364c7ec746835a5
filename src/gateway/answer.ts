// SPDX-License-Identifier: Apache-2.0
// An engine's answer as far as it must be known before a byte of it goes on: the head, and either the whole body, or of a
// stream all that comes before its first token, and that. Until then the request may still be moved to another endpoint.

import { concat } from "../base/bytes.ts";
import type { AnswerBody } from "../engines/engine.ts";
import type { Connection } from "../upstream/connection.ts";
import type { ResponseHead } from "../upstream/response_head.ts";
import { statusOfError } from "../openai/errors.ts";
import { EventBoundary } from "../openai/event_boundary.ts";
import { type StreamError, StreamProgress } from "../openai/stream_progress.ts";
import { UpstreamError } from "../upstream/errors.ts";
import type { Kind } from "../openai/api.ts";

export interface AnswerLimits {
  /** Bodies of known length up to this are read whole. */
  readonly wholeBytes: number;
  /** Largest event that is held together, and most that is held before the first token. */
  readonly eventBytes: number;
}

/** What is known of an answer before it comes. */
export interface Expected {
  readonly kind: Kind;
  /** Whether it is to be a stream of tokens. */
  readonly tokens: boolean;
  /** Alternatives that it has. */
  readonly choices: number;
  /** Is told that more of a whole answer has come. */
  heard(): void;
  /** Is told when a stream has begun whose first token may be long in coming. */
  opened(head: ResponseHead): void;
}

export interface Answer {
  readonly head: ResponseHead;
  readonly body: AnswerBody;
  /** The whole body; undefined when it is to be streamed. */
  readonly whole: Uint8Array<ArrayBuffer> | undefined;
  /** What of a stream has been read already: whole events, when it has events. */
  readonly first: Uint8Array<ArrayBuffer> | undefined;
  /** Present for event streams. */
  readonly boundary: EventBoundary | undefined;
  /** Present for streams of tokens. */
  readonly progress?: StreamProgress;
}

const EMPTY: Uint8Array<ArrayBuffer> = new Uint8Array(0);
const NULL_BODY = new Set([204, 205, 304]);

/** Reads as much as must be known. Throws UpstreamError. */
export function openAnswer(
  head: ResponseHead,
  body: AnswerBody,
  expected: Expected,
  limits: AnswerLimits,
): Answer | Promise<Answer> {
  const { framing, status } = head;
  if (framing.kind === "none" || NULL_BODY.has(status)) {
    return { head, body, whole: EMPTY, first: undefined, boundary: undefined };
  }
  const events = isEventStream(head);
  if (!events && framing.kind === "length" && framing.bytes <= limits.wholeBytes) {
    const arrived = (body as Partial<Connection>).takeArrived?.() ?? EMPTY;
    if (arrived.length === framing.bytes) {
      // Fast path: a small answer arrives together with its head.
      return { head, body, whole: arrived, first: undefined, boundary: undefined };
    }
    return readRest(head, body, expected, arrived);
  }
  return events
    ? openStream(head, body, expected, limits)
    : gather(head, body, expected, isJson(head) ? limits.wholeBytes : 0);
}

async function readRest(
  head: ResponseHead,
  body: AnswerBody,
  expected: Expected,
  arrived: Uint8Array<ArrayBuffer>,
): Promise<Answer> {
  const whole = new Uint8Array((head.framing as { bytes: number }).bytes);
  whole.set(arrived);
  let at = arrived.length;
  for (let piece = await body.readBody(); piece !== null; piece = await body.readBody()) {
    if (at + piece.length > whole.length) throw new UpstreamError("bad_response", "the answer is longer than it says");
    whole.set(piece, at);
    at += piece.length;
    expected.heard();
  }
  if (at < whole.length) throw new UpstreamError("lost_in_answer", "the answer is shorter than it says");
  return { head, body, whole, first: undefined, boundary: undefined };
}

async function openStream(
  head: ResponseHead,
  body: AnswerBody,
  expected: Expected,
  { eventBytes }: AnswerLimits,
): Promise<Answer> {
  const boundary = new EventBoundary(eventBytes);
  if (head.status !== 200 || !expected.tokens) return { head, body, whole: undefined, first: undefined, boundary };
  const progress = new StreamProgress(expected.kind, expected.choices);
  const held: Uint8Array<ArrayBuffer>[] = [];
  let bytes = 0;
  for (let opened = false;;) {
    // An engine that tells of anything but tokens is as silent as one that tells nothing.
    const reading = body.readBody(opened);
    if (!opened) expected.opened(head);
    opened = true;
    const piece = await reading;
    const events = piece === null ? boundary.rest() ?? EMPTY : boundary.push(piece);
    if (events.length > 0) {
      held.push(events);
      bytes += events.length;
      progress.look(events);
    }
    if (progress.error && progress.tokens === 0) return refused(head, body, progress.error);
    if (progress.aborted && progress.tokens === 0) throw aborted();
    if (progress.begun || bytes > eventBytes) break;
    if (piece === null) throw new UpstreamError("lost_in_answer", "the engine ended its stream before the first token");
  }
  return { head, body, whole: undefined, first: held.length === 1 ? held[0] : concat(held), boundary, progress };
}

// An error before the first token: it becomes a status, with the event's error as the body.
function refused(head: ResponseHead, body: AnswerBody, { body: error }: StreamError): Answer {
  body.close();
  const whole = encoder.encode(JSON.stringify(error));
  const headers = head.headers.filter(([name]) => !OF_STREAMS.has(name));
  headers.push(["content-type", "application/json"]);
  const framing = { kind: "length" as const, bytes: whole.length };
  const refusal = { status: statusOfError(error), headers, framing, keepAlive: false };
  return { head: refusal, body, whole, first: undefined, boundary: undefined };
}

const encoder = new TextEncoder();
const OF_STREAMS = new Set(["content-type", "cache-control", "x-accel-buffering"]);

// A body of unknown length: JSON is read whole up to the limit, anything else goes on as it comes.
async function gather(head: ResponseHead, body: AnswerBody, expected: Expected, maxBytes: number): Promise<Answer> {
  const pieces: Uint8Array[] = [];
  let length = 0;
  for (let piece = await body.readBody(); piece !== null; piece = await body.readBody()) {
    pieces.push(piece);
    expected.heard();
    length += piece.length;
    if (length > maxBytes) return { head, body, whole: undefined, first: concat(pieces), boundary: undefined };
  }
  return { head, body, whole: concat(pieces), first: undefined, boundary: undefined };
}

/** The engine gave a request up; another one may still do it. */
export function aborted(): UpstreamError {
  return new UpstreamError("lost_in_answer", "the engine aborted the request");
}

/** Bytes at the end of a whole answer in which its finish reason is looked for. */
const TAIL_BYTES = 1_500;
const ABORTED = /"finish_reason"\s*:\s*"abort"/;
const decoder = new TextDecoder();

/** Whether a whole answer says that it was given up. The text of an answer has its quotes escaped. */
export function saysAborted(whole: Uint8Array): boolean {
  return ABORTED.test(decoder.decode(whole.subarray(-TAIL_BYTES)));
}

/** Whether the body is JSON. */
export function isJson({ headers }: ResponseHead): boolean {
  return headers.some(([name, value]) => name === "content-type" && value.startsWith("application/json"));
}

/** Whether the body is events that may be looked into. */
export function isEventStream({ headers }: ResponseHead): boolean {
  let events = false;
  for (const [name, value] of headers) {
    if (name === "content-type") events = value.startsWith("text/event-stream");
    else if (name === "content-encoding" && value !== "identity") return false;
  }
  return events;
}
