// SPDX-License-Identifier: Apache-2.0
// An engine's answer as far as it must be known before a byte of it goes on: the head, and either the whole body, or the
// first events of a stream. Until then the request may still be moved to another endpoint.

import { concat } from "../base/bytes.ts";
import type { AnswerBody } from "../engines/engine.ts";
import type { Deadline, Deadlines } from "../base/deadlines.ts";
import type { Connection } from "../upstream/connection.ts";
import type { ResponseHead } from "../upstream/response_head.ts";
import { errorOf } from "../openai/errors.ts";
import { EventBoundary } from "../openai/event_boundary.ts";
import { eventJson, forEachEvent } from "../openai/events.ts";

type FirstEvents = Promise<Uint8Array<ArrayBuffer> | null>;

export interface AnswerLimits {
  /** Bodies of known length up to this are read whole. */
  readonly wholeBytes: number;
  /** Largest event that is held together. */
  readonly eventBytes: number;
  /** Waits for the first events of a stream as long as its head may wait for them. */
  readonly hold: (opening: FirstEvents) => Promise<Uint8Array<ArrayBuffer> | null | "late">;
}

export interface Answer {
  readonly head: ResponseHead;
  readonly body: AnswerBody;
  /** The whole body; undefined when it is to be streamed. */
  readonly whole: Uint8Array<ArrayBuffer> | undefined;
  /** What of a stream has been read already: whole events, when it has events. */
  readonly first: Uint8Array<ArrayBuffer> | undefined;
  /** The first events of a stream that lets them wait. */
  readonly opening?: FirstEvents;
  /** Present for event streams. */
  readonly boundary: EventBoundary | undefined;
}

const EMPTY: Uint8Array<ArrayBuffer> = new Uint8Array(0);
const NULL_BODY = new Set([204, 205, 304]);

/** Reads as much as must be known. Throws UpstreamError. */
export function openAnswer(head: ResponseHead, body: AnswerBody, limits: AnswerLimits): Answer | Promise<Answer> {
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
    return readRest(head, body, framing.bytes, arrived);
  }
  return events ? openStream(head, body, limits) : gather(head, body, isJson(head) ? limits.wholeBytes : 0);
}

async function readRest(
  head: ResponseHead,
  body: AnswerBody,
  length: number,
  arrived: Uint8Array<ArrayBuffer>,
): Promise<Answer> {
  const whole = new Uint8Array(length);
  whole.set(arrived);
  let at = arrived.length;
  for (let piece = await body.readBody(); piece !== null; piece = await body.readBody()) {
    whole.set(piece, at);
    at += piece.length;
  }
  return { head, body, whole, first: undefined, boundary: undefined };
}

async function openStream(head: ResponseHead, body: AnswerBody, limits: AnswerLimits): Promise<Answer> {
  const boundary = new EventBoundary(limits.eventBytes);
  const opening = firstEvents(body, boundary);
  const held = await limits.hold(opening);
  if (held === "late") return { head, body, whole: undefined, first: undefined, opening, boundary };
  if (held === null) return { head, body, whole: boundary.rest() ?? EMPTY, first: undefined, boundary };
  const error = head.status === 200 ? firstError(held) : undefined;
  if (error) return refused(head, body, error);
  return { head, body, whole: undefined, first: held, boundary };
}

// An error that is the first event of a stream: the request never began. It becomes a status, with the event's error as
// the body: 400, or the engine's own code where that blames the engine (5xx) or asks for patience (429).
function refused(head: ResponseHead, body: AnswerBody, error: Record<string, unknown>): Answer {
  body.close();
  const code = Number((error.error as { code?: unknown }).code);
  const status = code === 429 || (code >= 500 && code <= 599) ? code : 400;
  const whole = encoder.encode(JSON.stringify(error));
  const headers = head.headers.filter(([name]) => !OF_STREAMS.has(name));
  headers.push(["content-type", "application/json"]);
  const framing = { kind: "length" as const, bytes: whole.length };
  return { head: { status, headers, framing, keepAlive: false }, body, whole, first: undefined, boundary: undefined };
}

function firstError(events: Uint8Array): Record<string, unknown> | undefined {
  if (!decoder.decode(events.subarray(0, 1_024)).includes("error")) return undefined;
  let error: Record<string, unknown> | undefined;
  let first = true;
  forEachEvent(events, (start, end) => {
    const data = first ? eventJson(events, start, end) : undefined;
    if (data === undefined) return;
    first = false;
    error = errorOf(data);
  });
  return error;
}

const encoder = new TextEncoder();
const decoder = new TextDecoder();
const OF_STREAMS = new Set(["content-type", "cache-control", "x-accel-buffering"]);

/** The first whole events of a stream; null when it ends before. */
async function firstEvents(body: AnswerBody, boundary: EventBoundary): Promise<Uint8Array<ArrayBuffer> | null> {
  for (let piece = await body.readBody(); piece !== null; piece = await body.readBody()) {
    const events = boundary.push(piece);
    if (events.length > 0) return events;
  }
  return null;
}

/**
 * Makes the `hold` of AnswerLimits: waits for the first events of a stream, but not longer than `ms`. A client that leaves
 * is noticed only once it has the head of its answer: the runtime does not watch a connection before.
 */
export function holding(deadlines: Deadlines, ms: number): AnswerLimits["hold"] {
  return (opening) =>
    new Promise((resolve, reject) => {
      const deadline: Deadline = {
        deadline: deadlines.clock.now() + ms,
        place: -1,
        expire: () => resolve("late"),
      };
      deadlines.watch(deadline);
      opening.then((events) => {
        deadlines.unwatch(deadline);
        resolve(events);
      }, (error) => {
        deadlines.unwatch(deadline);
        reject(error);
      });
    });
}

// A body of unknown length: JSON is read whole up to the limit, anything else goes on as it comes.
async function gather(head: ResponseHead, body: AnswerBody, maxBytes: number): Promise<Answer> {
  const pieces: Uint8Array[] = [];
  let length = 0;
  for (let piece = await body.readBody(); piece !== null; piece = await body.readBody()) {
    pieces.push(piece);
    length += piece.length;
    if (length > maxBytes) return { head, body, whole: undefined, first: concat(pieces), boundary: undefined };
  }
  return { head, body, whole: concat(pieces), first: undefined, boundary: undefined };
}

function isJson({ headers }: ResponseHead): boolean {
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
