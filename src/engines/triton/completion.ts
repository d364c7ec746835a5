// SPDX-License-Identifier: Apache-2.0
// Generated text to OpenAI's answers: the chunks of a stream and whole objects, chat or legacy, with finish reason and
// usage. An engine that does not count tokens is counted: a piece of a stream is a token, a prompt is estimated.

import type { Usage } from "../../openai/usage.ts";

export interface CompletionOptions {
  readonly chat: boolean;
  readonly stream: boolean;
  readonly model: string;
  readonly maxTokens: number;
  /** Whether each part of a stream counts its own tokens, and not all up to it. */
  readonly countsParts: boolean;
  /** Whether a stream ends with a usage chunk. */
  readonly includeUsage: boolean;
  /** Prompt tokens when the engine does not count them. */
  readonly estimatedPromptTokens: number;
  /** Bytes of text to a token, when a whole answer is not counted. */
  readonly bytesPerToken: number;
}

/** A part of an engine's answer. */
export interface GeneratedPart {
  readonly text: string;
  readonly usage?: Usage;
  /** Why the answer ended, where the engine says so. */
  readonly finish?: string;
}

const encoder = new TextEncoder();
const FINISH_REASONS = new Set(["stop", "length", "content_filter"]);

export class CompletionWriter {
  readonly #id: string;
  readonly #created = Math.floor(Date.now() / 1_000);
  #text = "";
  #parts = 0;
  #usage: Usage = {};
  #finish: string | undefined;

  constructor(readonly options: CompletionOptions) {
    this.#id = `${options.chat ? "chatcmpl" : "cmpl"}-${crypto.randomUUID().replaceAll("-", "")}`;
  }

  /** Takes a part; returns the events that it makes in a stream, nothing otherwise. */
  part({ text, usage, finish }: GeneratedPart): string {
    const before = this.options.stream && this.options.countsParts ? this.#usage.completionTokens ?? 0 : 0;
    this.#usage = { ...this.#usage, ...usage };
    if (usage?.completionTokens !== undefined) this.#usage.completionTokens = before + usage.completionTokens;
    if (finish !== undefined && FINISH_REASONS.has(finish)) this.#finish = finish;
    const first = this.#parts === 0;
    if (text !== "" || first) this.#parts++;
    if (!this.options.stream) {
      this.#text += text;
      return "";
    }
    const role = first && this.options.chat ? this.#chunk({ role: "assistant", content: "" }, "", null) : "";
    return role + (text === "" ? "" : this.#chunk({ content: text }, text, null));
  }

  /** The end: the last events of a stream, or the whole object. */
  end(): Uint8Array<ArrayBuffer> {
    const { chat, stream, includeUsage, maxTokens } = this.options;
    const usage = this.#count();
    const finish = this.#finish ?? (usage.completion_tokens >= maxTokens ? "length" : "stop");
    if (stream) {
      const last = this.#chunk({}, "", finish);
      const tail = includeUsage ? `data: ${JSON.stringify({ ...this.#frame(), choices: [], usage })}\n\n` : "";
      return encoder.encode(`${last}${tail}data: [DONE]\n\n`);
    }
    const content = chat
      ? { message: { role: "assistant", content: this.#text, refusal: null } }
      : { text: this.#text };
    const choices = [{ index: 0, ...content, logprobs: null, finish_reason: finish }];
    return encoder.encode(JSON.stringify({ ...this.#frame(), choices, usage }));
  }

  #count() {
    const { estimatedPromptTokens, bytesPerToken, stream } = this.options;
    const prompt_tokens = this.#usage.promptTokens ?? estimatedPromptTokens;
    const completion_tokens = this.#usage.completionTokens ??
      (stream || this.#parts > 1 ? this.#parts : Math.ceil(encoder.encode(this.#text).length / bytesPerToken));
    const counted = this.#usage.promptTokens !== undefined && this.#usage.completionTokens !== undefined;
    const usage = { prompt_tokens, completion_tokens, total_tokens: prompt_tokens + completion_tokens };
    return counted ? usage : { ...usage, estimated: true };
  }

  #frame() {
    const { chat, stream, model } = this.options;
    const object = chat ? (stream ? "chat.completion.chunk" : "chat.completion") : "text_completion";
    return { id: this.#id, object, created: this.#created, model };
  }

  #chunk(delta: Record<string, string>, text: string, finish_reason: string | null): string {
    const content = this.options.chat ? { delta } : { text };
    const choices = [{ index: 0, ...content, logprobs: null, finish_reason }];
    return `data: ${JSON.stringify({ ...this.#frame(), choices })}\n\n`;
  }
}
