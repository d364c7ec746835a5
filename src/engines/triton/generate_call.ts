// SPDX-License-Identifier: Apache-2.0
// Answers of Triton's generate extension, turned into OpenAI's as they are read.

import { concat } from "../../base/bytes.ts";
import { errorOf } from "../../openai/errors.ts";
import { EventBoundary } from "../../openai/event_boundary.ts";
import { eventData, forEachEvent } from "../../openai/events.ts";
import { UpstreamError } from "../../upstream/errors.ts";
import type { ResponseHead } from "../../upstream/response_head.ts";
import type { AnswerBody, Opened } from "../engine.ts";
import type { CompletionWriter } from "./completion.ts";
import { engineError, headOf } from "./errors.ts";
import { generatedPart } from "./generate.ts";

const encoder = new TextEncoder();
const decoder = new TextDecoder();
const EMPTY: Uint8Array<ArrayBuffer> = new Uint8Array(0);

// Triton's HTTP server says 400 for almost everything that a model refuses, with `{"error": text}`.
/** An answer of the generate extension as OpenAI's. */
export function wrapGenerate(
  { head, body }: Opened,
  writer: CompletionWriter,
  stream: boolean,
  eventBytes: number,
): Opened {
  if (head.status !== 200) {
    return {
      head: { ...headOf(head.status, false), headers: [...passed(head), ["content-type", "application/json"]] },
      body: new ErrorBody(body, head.status),
    };
  }
  return { head: headOf(200, stream), body: new GenerateBody(body, writer, stream, eventBytes) };
}

function passed({ headers }: ResponseHead): [string, string][] {
  return headers.filter(([name]) => name === "retry-after");
}

/** Turns the body of an HTTP error into OpenAI's. */
class ErrorBody implements AnswerBody {
  #over = false;
  constructor(readonly body: AnswerBody, readonly status: number) {}
  async readBody(): Promise<Uint8Array<ArrayBuffer> | null> {
    if (this.#over) return null;
    this.#over = true;
    const text = await readText(this.body);
    let message = text;
    try {
      const { error } = errorOf(JSON.parse(text)) as { error: { message: string } };
      message = error.message;
    } catch {
      // a text
    }
    return engineError(this.status, message || `The engine answered ${this.status}`);
  }
  fail(error: UpstreamError): void {
    this.body.fail(error);
  }
  close(): void {
    this.body.close();
  }
  finish(): void {
    this.body.finish();
  }
}

class GenerateBody implements AnswerBody {
  readonly #boundary: EventBoundary;
  #over = false;
  #begun = false;

  constructor(
    readonly body: AnswerBody,
    readonly writer: CompletionWriter,
    readonly stream: boolean,
    eventBytes: number,
  ) {
    this.#boundary = new EventBoundary(eventBytes);
  }

  async readBody(): Promise<Uint8Array<ArrayBuffer> | null> {
    for (;;) {
      if (this.#over) return null;
      if (!this.stream) {
        this.#part(await readText(this.body));
        this.#over = true;
        return this.writer.end();
      }
      const piece = await this.body.readBody();
      const events = piece === null ? this.#boundary.rest() ?? EMPTY : this.#boundary.push(piece);
      let written = "";
      forEachEvent(events, (start, end) => {
        const data = eventData(events, start, end);
        if (data !== undefined) written += this.#part(data);
      });
      if ((piece !== null || this.#over) && written !== "") return encoder.encode(written);
      if (piece === null) {
        this.#over = true;
        const last = this.writer.end();
        return concat([encoder.encode(written), last]);
      }
    }
  }

  #part(json: string): string {
    try {
      const part = this.writer.part(generatedPart(JSON.parse(json)));
      this.#begun = true;
      return part;
    } catch (error) {
      this.body.close();
      // What the model refuses before its first word is told as an engine tells it: as the first event.
      if (this.stream && !this.#begun && isRefusal(json)) {
        this.#over = true;
        return `data: ${decoder.decode(engineError(400, (error as Error).message))}\n\n`;
      }
      throw new UpstreamError("bad_response", (error as Error).message, error);
    }
  }

  fail(error: UpstreamError): void {
    this.body.fail(error);
  }
  close(): void {
    this.body.close();
  }
  finish(): void {
    this.body.finish();
  }
}

function isRefusal(json: string): boolean {
  try {
    return typeof JSON.parse(json)?.error === "string";
  } catch {
    return false;
  }
}

async function readText(body: AnswerBody): Promise<string> {
  const decoder = new TextDecoder();
  let text = "";
  for (let piece = await body.readBody(); piece !== null; piece = await body.readBody()) {
    text += decoder.decode(piece, { stream: true });
  }
  return text + decoder.decode();
}
