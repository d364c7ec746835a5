// SPDX-License-Identifier: Apache-2.0
// What the gateway takes from the events of a stream, and the little that it changes in them: the usage is read, and its
// chunk is taken out when the client did not ask for one; text in <think> tags moves to reasoning_content. Events that
// need nothing of this pass as the bytes that they are.

import { concat } from "../base/bytes.ts";
import { eventJson, forEachEvent } from "../openai/events.ts";
import { type ReasoningStart, StreamSplitter } from "../openai/reasoning.ts";
import { type Usage, usageAt, usageOfEvent } from "../openai/usage.ts";

const EMPTY = new Uint8Array(0);
const encoder = new TextEncoder();

export interface TapOptions {
  /** The usage chunk is the gateway's own: the client did not ask for it. */
  readonly hideUsage: boolean;
  /** Who opens the reasoning that is split off; undefined where none is. */
  readonly splitReasoning: ReasoningStart | undefined;
}

export class StreamTap {
  readonly #hideUsage: boolean;
  readonly #splitter: StreamSplitter | undefined;
  #usage: Usage | undefined;

  constructor({ hideUsage, splitReasoning }: TapOptions) {
    this.#hideUsage = hideUsage;
    this.#splitter = splitReasoning && new StreamSplitter(splitReasoning);
  }

  /** The latest figures that the stream told. */
  get usage(): Usage | undefined {
    return this.#usage;
  }

  /** What goes on to the client of bytes that hold whole events; `plain` says that they tell no usage. */
  pass(events: Uint8Array<ArrayBuffer>, plain = false): Uint8Array<ArrayBuffer> {
    // Fast path, all but the last chunks of most streams: nothing in it concerns the gateway.
    if (this.#splitter === undefined && (plain || usageAt(events) < 0)) return events;
    const kept: Uint8Array[] = [];
    let changed = false;
    forEachEvent(events, (start, end) => {
      const bytes = events.subarray(start, end);
      const passed = this.#event(bytes);
      changed ||= passed !== bytes;
      if (passed !== undefined) kept.push(passed);
    });
    return changed ? concat(kept) : events;
  }

  #event(bytes: Uint8Array): Uint8Array | undefined {
    const data = eventJson(bytes, 0, bytes.length);
    if (typeof data !== "object" || data === null) return bytes;
    const usage = usageOfEvent(data);
    if (usage) this.#usage = { ...this.#usage, ...usage };
    const chunk = data as { choices?: unknown };
    if (usage && this.#hideUsage && Array.isArray(chunk.choices) && chunk.choices.length === 0) return undefined;
    const split = this.#splitter?.chunk(chunk) ?? "same";
    if (split === "empty") return undefined;
    return split === "same" ? bytes : encoder.encode(`data: ${JSON.stringify(data)}\n\n`);
  }

  /** What was held back when the stream is over. */
  rest(): Uint8Array<ArrayBuffer> {
    const chunk = this.#splitter?.rest();
    return chunk === undefined ? EMPTY : encoder.encode(`data: ${JSON.stringify(chunk)}\n\n`);
  }
}
