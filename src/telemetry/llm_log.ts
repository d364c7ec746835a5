// SPDX-License-Identifier: Apache-2.0
// The log of texts: what clients asked and engines answered, one JSON object a request. Off unless it is switched on.

import type { LogConfig } from "../config/log.ts";
import { AnswerText } from "../openai/answer_text.ts";
import type { Kind } from "../openai/api.ts";
import { eventJson, forEachEvent } from "../openai/events.ts";
import { LineFile } from "./line_file.ts";
import type { Outcome } from "./outcome.ts";

/** What is known of a request when it ends. */
export interface TextFacts {
  readonly time: string;
  readonly trace_id: string;
  readonly ai_model_name: string;
  readonly tenant: string;
  readonly endpoint: string;
  readonly status: number;
  readonly outcome: Outcome;
  readonly prompt_tokens: number | null;
  readonly completion_tokens: number | null;
  readonly cached_tokens: number | null;
}

const decoder = new TextDecoder();

/** The texts of one request. */
export class RequestTexts {
  #request = "";
  #requestBytes = 0;
  #failure = "";
  readonly #answer: AnswerText;

  constructor(readonly kind: Kind, readonly mostBytes: number) {
    this.#answer = new AnswerText(kind, mostBytes);
  }

  /** Its body as it came. */
  asked(body: Uint8Array): void {
    this.#requestBytes = body.length;
    this.#request = decoder.decode(body.subarray(0, this.mostBytes));
  }

  /** The whole answer as the client gets it. */
  answered(body: Uint8Array): void {
    try {
      this.#answer.whole(JSON.parse(decoder.decode(body)));
    } catch {
      // no JSON: nothing to tell
    }
  }

  /** Whole events of the answer as the client gets them. */
  streamed(events: Uint8Array): void {
    forEachEvent(events, (start, end) => this.#answer.event(eventJson(events, start, end)));
  }

  /** It ended with an error of the gateway's. */
  failed(message: string): void {
    this.#failure = message;
  }

  record(facts: TextFacts): Record<string, unknown> {
    const { content, reasoning, error } = this.#answer;
    return {
      ...facts,
      request_bytes: this.#requestBytes,
      request: this.#request,
      response: content.text,
      thinking: reasoning.text,
      cut: content.cut || reasoning.cut || this.#requestBytes > this.mostBytes,
      error_message: this.#failure || error,
    };
  }
}

export class LlmLog {
  readonly #file: LineFile;

  constructor(readonly options: LogConfig["llm"], failed: (error: Error) => void) {
    this.#file = new LineFile({ ...options, failed });
  }

  get dropped(): number {
    return this.#file.dropped;
  }

  textsOf(kind: Kind): RequestTexts {
    return new RequestTexts(kind, this.options.text_bytes);
  }

  write(texts: RequestTexts, facts: TextFacts): void {
    this.#file.write(JSON.stringify(texts.record(facts)));
  }

  /** Writes what waits; what requests that go on still write opens the file each time. */
  close(): Promise<void> {
    return this.#file.close();
  }
}
