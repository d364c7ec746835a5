// SPDX-License-Identifier: Apache-2.0
// What an answer says, for those who want to read it: its text, its reasoning, and its error, out of whole answers and out of
// the events of a stream, by the shapes of every API.

import type { Kind } from "./api.ts";

/** Text up to a number of characters. */
class Bounded {
  text = "";
  cut = false;

  constructor(readonly most: number) {}

  add(value: unknown): void {
    if (typeof value !== "string" || value === "") return;
    const left = this.most - this.text.length;
    if (value.length > left) this.cut = true;
    this.text += left >= value.length ? value : value.slice(0, left);
  }
}

type Fields = Readonly<Record<string, unknown>>;

export class AnswerText {
  readonly content: Bounded;
  readonly reasoning: Bounded;
  /** Message of the error that it told. */
  error = "";

  /** @param most Characters kept of the text, and of the reasoning. */
  constructor(readonly kind: Kind, most: number) {
    this.content = new Bounded(most);
    this.reasoning = new Bounded(most);
  }

  /** A whole answer, parsed. */
  whole(answer: unknown): void {
    const { choices, content, output } = fieldsOf(answer);
    this.#failure(fieldsOf(answer));
    switch (this.kind) {
      case "chat":
        for (const choice of listOf(choices)) this.#message(fieldsOf(choice.message));
        return;
      case "completion":
        for (const { text } of listOf(choices)) this.content.add(text);
        return;
      case "messages":
        for (const part of listOf(content)) this.#part(part);
        return;
      case "responses":
        for (const item of listOf(output)) {
          const into = item.type === "reasoning" ? this.reasoning : this.content;
          for (const { text } of [...listOf(item.summary), ...listOf(item.content)]) into.add(text);
        }
    }
  }

  /** The data of an event, parsed. */
  event(data: unknown): void {
    const { choices, delta, type } = fieldsOf(data);
    this.#failure(fieldsOf(data));
    switch (this.kind) {
      case "chat":
        for (const choice of listOf(choices)) this.#message(fieldsOf(choice.delta));
        return;
      case "completion":
        for (const { text } of listOf(choices)) this.content.add(text);
        return;
      case "messages":
        if (type === "content_block_delta") this.#part(fieldsOf(delta));
        return;
      case "responses":
        if (type === "response.output_text.delta") this.content.add(delta);
        else if (typeof type === "string" && /^response\.reasoning_.*\.delta$/.test(type)) this.reasoning.add(delta);
    }
  }

  #message({ content, reasoning, reasoning_content }: Fields): void {
    this.content.add(content);
    this.reasoning.add(reasoning_content ?? reasoning);
  }

  #part({ text, thinking }: Fields): void {
    this.content.add(text);
    this.reasoning.add(thinking);
  }

  #failure({ error, object, message, response }: Fields): void {
    const told = object === "error" ? message : fieldsOf(error ?? fieldsOf(response).error).message;
    if (typeof told === "string") this.error ||= told;
  }
}

function fieldsOf(value: unknown): Fields {
  return typeof value === "object" && value !== null ? value as Fields : {};
}

function listOf(value: unknown): Fields[] {
  return Array.isArray(value) ? value.map(fieldsOf) : [];
}
