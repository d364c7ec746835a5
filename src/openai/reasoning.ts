// SPDX-License-Identifier: Apache-2.0
// Splits the reasoning off generated text: a `<think>…</think>` that opens the answer, however the pieces cut the tags;
// what may be the beginning of a tag is held back until the next piece tells. A tag further on is text. Where the chat
// template has opened the tag, the answer begins inside of it.

const OPEN = "<think>";
const CLOSE = "</think>";

/** Who opens the reasoning: the answer, or the chat template before it. */
export type ReasoningStart = "answer" | "template";

/** A piece of text, divided. */
export interface Split {
  reasoning: string;
  content: string;
}

/** The splitter of one choice of one answer. */
export class ReasoningSplitter {
  #state: "opening" | "inside" | "after";
  #held = "";

  constructor(start: ReasoningStart) {
    this.#state = start === "template" ? "inside" : "opening";
  }

  /** Divides the next piece; the parts may come out later than they went in. */
  push(text: string): Split {
    let rest = this.#held + text;
    let space = "";
    this.#held = "";
    if (this.#state === "opening") {
      const opened = rest.trimStart();
      space = rest.slice(0, rest.length - opened.length); // before the tag it is text
      rest = opened;
      if (rest.startsWith(OPEN)) {
        this.#state = "inside";
        rest = rest.slice(OPEN.length);
      } else if (OPEN.startsWith(rest)) {
        this.#held = rest; // nothing so far, or a part of the tag
        return { reasoning: "", content: space };
      } else this.#state = "after";
    }
    if (this.#state === "after") return { reasoning: "", content: space + rest };
    const at = rest.indexOf(CLOSE);
    if (at >= 0) {
      this.#state = "after";
      return { reasoning: rest.slice(0, at), content: space + rest.slice(at + CLOSE.length) };
    }
    const held = tagStart(rest, CLOSE);
    this.#held = rest.slice(rest.length - held);
    return { reasoning: rest.slice(0, rest.length - held), content: space };
  }

  /** What was held back, when the text is over. */
  end(): Split {
    const held = this.#held;
    this.#held = "";
    return this.#state === "inside" ? { reasoning: held, content: "" } : { reasoning: "", content: held };
  }
}

/** Length of the longest end of `text` that begins `tag`. */
function tagStart(text: string, tag: string): number {
  for (let length = Math.min(tag.length - 1, text.length); length > 0; length--) {
    if (text.endsWith(tag.slice(0, length))) return length;
  }
  return 0;
}

interface Choice {
  index?: number;
  delta?: Record<string, unknown>;
  message?: Record<string, unknown>;
  finish_reason?: unknown;
}

/** Splits the message of every choice of a whole chat answer, in place; false when there was nothing to split. */
export function splitWhole(answer: { choices?: unknown }, start: ReasoningStart): boolean {
  let changed = false;
  for (const { message } of choicesOf(answer)) {
    if (typeof message?.content !== "string") continue;
    const splitter = new ReasoningSplitter(start);
    const [first, last] = [splitter.push(message.content), splitter.end()];
    const reasoning = first.reasoning + last.reasoning;
    if (reasoning === "") continue;
    message.content = first.content + last.content;
    message.reasoning_content = `${message.reasoning_content ?? ""}${reasoning}`;
    changed = true;
  }
  return changed;
}

/** The splitters of a stream, by choice. */
export class StreamSplitter {
  readonly #splitters = new Map<number, ReasoningSplitter>();
  constructor(readonly start: ReasoningStart) {}

  /** The last chunk, without its choices. */
  #frame: Record<string, unknown> = {};

  /**
   * Splits the deltas of a chunk in place. "same": nothing to change; "changed"; "empty": all that it had is held back.
   */
  chunk(chunk: { choices?: unknown }): "same" | "changed" | "empty" {
    let result: "same" | "changed" | "empty" = "same";
    const { choices: _, usage: _usage, ...frame } = chunk as Record<string, unknown>;
    this.#frame = frame;
    for (const { index = 0, delta, finish_reason } of choicesOf(chunk)) {
      const finished = finish_reason !== null && finish_reason !== undefined;
      const content = typeof delta?.content === "string" ? delta.content : "";
      if (!delta || (content === "" && !finished)) continue;
      const splitter = this.#splitters.get(index) ?? new ReasoningSplitter(this.start);
      this.#splitters.set(index, splitter);
      const split = splitter.push(content);
      if (finished) {
        const last = splitter.end();
        split.content += last.content;
        split.reasoning += last.reasoning;
      }
      if (split.content === content && split.reasoning === "") continue;
      result = "changed";
      if (split.reasoning !== "") delta.reasoning_content = `${delta.reasoning_content ?? ""}${split.reasoning}`;
      if (split.content !== "") delta.content = split.content;
      else delete delta.content;
      if (!finished && Object.keys(delta).length === 0) result = "empty";
    }
    return result === "empty" && choicesOf(chunk).length > 1 ? "changed" : result;
  }

  /** A chunk with what is still held when a stream ends without a finish reason; undefined when nothing is. */
  rest(): Record<string, unknown> | undefined {
    const choices: unknown[] = [];
    for (const [index, splitter] of this.#splitters) {
      const { content, reasoning } = splitter.end();
      if (content !== "") choices.push({ index, delta: { content }, finish_reason: null });
      if (reasoning !== "") choices.push({ index, delta: { reasoning_content: reasoning }, finish_reason: null });
    }
    return choices.length === 0 ? undefined : { ...this.#frame, choices };
  }
}

function choicesOf({ choices }: { choices?: unknown }): Choice[] {
  return Array.isArray(choices) ? choices : [];
}
