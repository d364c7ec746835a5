// SPDX-License-Identifier: Apache-2.0
// The head of a stream whose request waits for an endpoint for long. The runtime tells that a client left only once a head
// has been written; so it is written after a while, and comments keep what is between alive. What the answer turns out to
// be follows: its events, or the error as an event.

import type { Deadline, Deadlines } from "../../base/deadlines.ts";
import type { Kind } from "../../openai/api.ts";
import { dialectOf } from "../../openai/api.ts";
import type { Call } from "../../gateway/call.ts";
import { addHeaders, type HttpContext } from "./http_call.ts";

/** Between two comments to a client that waits. */
const COMMENT_MS = 5_000;
const encoder = new TextEncoder();

export class EarlyHead implements Deadline {
  deadline = Infinity;
  place = -1;
  readonly #late = Promise.withResolvers<void>();
  #controller: ReadableStreamDefaultController<Uint8Array> | undefined;

  constructor(
    readonly deadlines: Deadlines,
    readonly context: HttpContext,
    readonly call: Call,
    readonly kind: Kind,
  ) {}

  /** The request waits from now on. */
  wait(ms: number): void {
    this.deadline = this.deadlines.clock.now() + ms;
    this.deadlines.watch(this);
  }

  expire(): void {
    this.#late.resolve();
    if (this.#controller === undefined) return;
    this.#controller.enqueue(encoder.encode(": waiting\n\n"));
    this.wait(COMMENT_MS);
  }

  /** The answer, or its head when it is long in coming. `answering` does not reject. */
  async race(answering: Promise<Response>): Promise<Response> {
    const first = await Promise.race([answering, this.#late.promise]);
    if (first !== undefined) {
      this.deadlines.unwatch(this);
      return first;
    }
    // Opened once: a client may leave while the answer is waited for.
    let opened: Promise<ReadableStreamDefaultReader<Uint8Array>> | undefined;
    const body = () => opened ??= this.#bodyOf(answering);
    const stream = new ReadableStream<Uint8Array>({
      start: (controller) => {
        this.#controller = controller;
        this.expire();
      },
      pull: async (controller) => {
        const { value, done } = await (await body()).read();
        if (done) controller.close();
        else controller.enqueue(value);
      },
      cancel: async () => {
        this.#settle();
        this.call.cancellation.leave();
        await (await body()).cancel();
      },
    }, { highWaterMark: 1 });
    const headers = { "content-type": "text/event-stream;charset=UTF-8", "x-accel-buffering": "no" };
    return addHeaders(this.context, this.call, new Response(stream, { headers }));
  }

  #settle(): void {
    this.#controller = undefined;
    this.deadlines.unwatch(this);
  }

  async #bodyOf(answering: Promise<Response>): Promise<ReadableStreamDefaultReader<Uint8Array>> {
    const response = await answering;
    this.#settle();
    if (response.headers.get("content-type")?.startsWith("text/event-stream")) return response.body!.getReader();
    const error = (await response.text()).replaceAll(/[\r\n]+/g, " ");
    const event = dialectOf(this.kind) === "openai"
      ? `data: ${error}\n\ndata: [DONE]\n\n`
      : `event: error\ndata: ${error}\n\n`;
    return new Response(event).body!.getReader();
  }
}
