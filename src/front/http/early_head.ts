// SPDX-License-Identifier: Apache-2.0
// The head of a stream whose first token is long in coming: because the request waits for an endpoint, or an engine has
// begun and is silent. The runtime tells that a client left only once a head has been written, and load balancers cut
// silent connections; so it is written after a while, and comments keep what follows alive. What the answer turns out to
// be comes behind it: its events, or the error as an event. Until then the request may still move to another endpoint.

import type { Deadline, Deadlines } from "../../base/deadlines.ts";
import { dialectOf } from "../../openai/api.ts";
import type { Call } from "../../gateway/call.ts";
import type { AnswerWatcher } from "../../gateway/pipeline.ts";
import type { ResponseHead } from "../../upstream/response_head.ts";
import { HttpResponse, type StreamController, type StreamSource } from "./exchange.ts";
import { addHeaders, type HttpContext } from "./http_call.ts";
import { addEngineFields } from "./relay.ts";

/** Times of a stream before its first token. */
export interface EarlyTimes {
  /** Waiting for an endpoint, until the head is written. */
  readonly queuedMs: number;
  /** From an engine's head to its first token, until the head is written. */
  readonly openedMs: number;
  /** Between two signs of life; the head is written after as long in any case. */
  readonly heartbeatMs: number;
}

const HEARTBEAT = new TextEncoder().encode(": waiting\n\n");

export class EarlyHead implements Deadline, AnswerWatcher {
  deadline = Infinity;
  place = -1;
  readonly #late = Promise.withResolvers<void>();
  #head: ResponseHead | undefined;
  #controller: StreamController | undefined;
  /** The answer has come. */
  #over = false;

  constructor(
    readonly deadlines: Deadlines,
    readonly context: HttpContext,
    readonly call: Call,
    readonly times: EarlyTimes,
  ) {
    this.#wait(times.heartbeatMs);
  }

  queued(): void {
    this.#wait(this.times.queuedMs);
  }

  opened(head: ResponseHead): void {
    this.#head = head;
    this.#wait(this.times.openedMs);
  }

  // Sooner than before, while no head has been written; afterwards the comments have their own beat.
  #wait(ms: number): void {
    if (this.#over || this.#controller !== undefined) return;
    this.deadline = Math.min(this.deadline, this.deadlines.clock.now() + ms);
    this.deadlines.watch(this);
  }

  expire(): void {
    this.#late.resolve();
    if (this.#controller === undefined || this.#over) return;
    if (this.#controller.desiredSize! >= 0) this.#controller.enqueue(HEARTBEAT);
    this.deadline = this.deadlines.clock.now() + this.times.heartbeatMs;
    this.deadlines.watch(this);
  }

  /** The answer, or its head when it is long in coming. `answering` does not reject. */
  async race(answering: Promise<HttpResponse>): Promise<HttpResponse> {
    const first = await Promise.race([answering, this.#late.promise]);
    if (first !== undefined) {
      this.#settle();
      return first;
    }
    const response = addHeaders(this.context, this.call, new HttpResponse(200, this.#bodyOf(answering)));
    response.append("content-type", "text/event-stream;charset=UTF-8");
    response.append("x-accel-buffering", "no");
    if (this.#head) addEngineFields(response, this.#head, true, this.context);
    return response;
  }

  #settle(): void {
    this.#over = true;
    this.#controller = undefined;
    this.deadlines.unwatch(this);
  }

  // Comments until the answer has come, then what that one says.
  #bodyOf(answering: Promise<HttpResponse>): StreamSource {
    let begun = false;
    let left = false;
    let source: StreamSource | undefined;
    // Opened once: a client may leave while the answer is waited for.
    let opened: Promise<StreamSource> | undefined;
    const open = () =>
      opened ??= answering.then((response) => {
        this.#settle();
        return source = sourceOf(response, this.call);
      });
    return {
      pull: (controller) => {
        if (source) return source.pull(controller);
        if (begun) return open().then((answer) => left ? undefined : answer.pull(controller));
        begun = true;
        this.#controller = controller;
        this.expire();
      },
      cancel: async () => {
        this.#settle();
        left = true;
        this.call.cancellation.leave();
        await (await open()).cancel();
      },
    };
  }
}

/** Its events, or its error as one. */
function sourceOf(response: HttpResponse, { kind }: Call): StreamSource {
  const { stream, body } = response;
  if (stream && response.get("content-type")?.startsWith("text/event-stream")) return stream;
  const text = typeof body === "string" ? body : body instanceof Uint8Array ? new TextDecoder().decode(body) : "";
  const error = text.replaceAll(/[\r\n]+/g, " ");
  const event = dialectOf(kind) === "openai"
    ? `data: ${error}\n\ndata: [DONE]\n\n`
    : `event: error\ndata: ${error}\n\n`;
  return {
    pull(controller) {
      controller.enqueue(new TextEncoder().encode(event));
      controller.close();
    },
    cancel() {
      stream?.cancel();
    },
  };
}
