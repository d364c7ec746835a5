// SPDX-License-Identifier: Apache-2.0
// What the events of a stream tell of the answer: its first token, how many came, an error, its end. Comments, pings, role
// chunks and empty deltas are no token; reasoning and the arguments of tool calls are. An answer is whole only when it says
// so: by `[DONE]`, by the finish reason of each choice, by Anthropic's message_stop, by the terminal event of a response.

import { dialectOf, type Kind } from "./api.ts";
import { blamesEngine, errorOf } from "./errors.ts";
import { eventData, forEachEvent } from "./events.ts";

/** An error that an engine sent as an event. */
export interface StreamError {
  /** The body that it would be as an answer. */
  readonly body: Record<string, unknown>;
  /** Whether the engine failed, and not the request. */
  readonly blamesEngine: boolean;
}

type Fields = Record<string, unknown>;

/** Events that have to be looked into after the first token; what a text quotes is escaped and does not match. */
const MARKS =
  /"error"|\[DONE\]|"finish_reason"\s*:\s*"|"usage"\s*:\s*\{|"message_stop"|"response\.(?:completed|incomplete|failed|cancelled)"/;
const LINE_OF_DATA = "\ndata:";
const decoder = new TextDecoder();

export class StreamProgress {
  /** Whether a token has been seen, or the end of an answer without one. */
  begun = false;
  /** Whether the answer said that it is whole. */
  ended = false;
  /** Events that brought tokens. */
  tokens = 0;
  /** The first error that was told. */
  error: StreamError | undefined;
  /** Whether the engine gave the answer up: as vLLM does when it is stopped or paused. */
  aborted = false;
  /** Finish reasons by choice. */
  readonly #finished = new Map<unknown, string>();

  /** @param choices Alternatives that the answer has, each with a finish reason of its own. */
  constructor(readonly kind: Kind, readonly choices: number) {}

  get finishReasons(): string[] {
    return [...this.#finished.values()];
  }

  /** Takes note of bytes that hold whole events; true when they bring tokens and tell nothing else, no usage either. */
  look(events: Uint8Array): boolean {
    if (this.begun) {
      const text = decoder.decode(events);
      // Fast path, all but the last events of most streams.
      if (!MARKS.test(text)) {
        this.tokens += eventsIn(text);
        return true;
      }
    }
    forEachEvent(events, (start, end) => this.#event(events, start, end));
    return false;
  }

  #event(events: Uint8Array, start: number, end: number): void {
    const data = eventData(events, start, end);
    if (data === undefined) return;
    if (data.trim() === "[DONE]") return this.#end();
    let value: unknown;
    try {
      value = JSON.parse(data);
    } catch {
      return this.#token(); // what it is only its client knows
    }
    if (typeof value !== "object" || value === null) return this.#token();
    const body = errorOf(value);
    if (body) this.error ??= { body, blamesEngine: blamesEngine(body) };
    else if (dialectOf(this.kind) === "openai") this.#chunk(value as Fields);
    else this.#typed(value as Fields);
  }

  #token(): void {
    this.begun = true;
    this.tokens++;
  }

  #end(): void {
    this.begun = this.ended = true;
  }

  // A chunk of chat and completions.
  #chunk({ choices }: Fields): void {
    if (!Array.isArray(choices)) return this.#token();
    let token = false;
    for (const { index = 0, text, delta, finish_reason } of choices as Fields[]) {
      token ||= filled(text) || bringsToken(delta);
      if (typeof finish_reason === "string") this.#finished.set(index, finish_reason);
      this.aborted ||= finish_reason === "abort";
    }
    if (token) this.#token();
    if (this.#finished.size >= this.choices) this.#end();
  }

  // An event of a message (Anthropic) or of a response (OpenAI), which says its type.
  #typed({ type, delta, content_block }: Fields): void {
    const name = String(type);
    if (name === "message_stop" || TERMINAL.has(name)) this.#end();
    else if (name === "content_block_delta") {
      const { text, thinking, partial_json } = (delta ?? {}) as Fields;
      if (filled(text) || filled(thinking) || filled(partial_json)) this.#token();
    } else if (name === "content_block_start") {
      if ((content_block as Fields | undefined)?.type === "tool_use") this.#token();
    } else if (name.endsWith(".delta") && filled(delta)) this.#token();
  }
}

const TERMINAL = new Set(["response.completed", "response.incomplete", "response.cancelled"]);

// Any field of a delta but its role, whatever engines call their text: content, reasoning, refusal, tool_calls, audio.
function bringsToken(delta: unknown): boolean {
  if (typeof delta !== "object" || delta === null) return false;
  for (const [name, value] of Object.entries(delta)) if (name !== "role" && filled(value)) return true;
  return false;
}

function filled(value: unknown): boolean {
  if (typeof value === "string" || Array.isArray(value)) return value.length > 0;
  return typeof value === "object" && value !== null && Object.keys(value).length > 0;
}

function eventsIn(text: string): number {
  let count = text.startsWith("data:") ? 1 : 0;
  for (let at = text.indexOf(LINE_OF_DATA); at >= 0; at = text.indexOf(LINE_OF_DATA, at + 1)) count++;
  return count;
}
