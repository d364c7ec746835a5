// SPDX-License-Identifier: Apache-2.0
// What the gateway takes from the events of a stream, and the little that it changes in them: the usage is read, and its
// chunk is taken out when the client did not ask for one; text in <think> tags moves to reasoning_content. Events that
// need nothing of this pass as the bytes that they are.
//
// vLLM tells its system_fingerprint in the last chunk, which is that of the usage where there is one. So the chunk before,
// with the finish reason, is kept until it is known whether the fingerprint has to move there.

import { concat } from "../base/bytes.ts";
import { eventJson, forEachEvent } from "../openai/events.ts";
import { type ReasoningStart, StreamSplitter } from "../openai/reasoning.ts";
import { type Usage, usageAt, usageOfEvent } from "../openai/usage.ts";

const EMPTY = new Uint8Array(0);
const FINISHED = /"finish_reason"\s*:\s*"/;
const encoder = new TextEncoder();
const decoder = new TextDecoder();

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
  /** The chunk with the finish reason, while what follows it is not known. */
  #last: Uint8Array | undefined;

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
    if (this.#splitter === undefined && (plain || !this.#concerns(events))) return events;
    const kept: Uint8Array[] = [];
    let changed = false;
    forEachEvent(events, (start, end) => {
      const bytes = events.subarray(start, end);
      const before = kept.length;
      this.#event(bytes, kept);
      changed ||= kept.length !== before + 1 || kept[before] !== bytes;
    });
    return changed ? concat(kept) : events;
  }

  #concerns(events: Uint8Array): boolean {
    if (this.#last !== undefined || usageAt(events) >= 0) return true;
    return this.#hideUsage && FINISHED.test(decoder.decode(events));
  }

  #event(bytes: Uint8Array, kept: Uint8Array[]): void {
    const data = eventJson(bytes, 0, bytes.length);
    const chunk = (typeof data === "object" && data !== null ? data : {}) as Chunk;
    const usage = usageOfEvent(chunk);
    if (usage) this.#usage = { ...this.#usage, ...usage };
    const { choices } = chunk;
    const isUsage = usage !== undefined && Array.isArray(choices) && choices.length === 0;
    this.#release(kept, isUsage ? chunk.system_fingerprint : undefined);
    if (isUsage && this.#hideUsage) return;
    const split = data === chunk ? this.#splitter?.chunk(chunk) ?? "same" : "same";
    if (split === "empty") return;
    const passed = split === "same" ? bytes : encoder.encode(`data: ${JSON.stringify(data)}\n\n`);
    if (this.#hideUsage && isLast(chunk)) this.#last = passed.slice(); // the next piece may take its place
    else kept.push(passed);
  }

  // The chunk that was kept goes on, with a fingerprint that came behind it.
  #release(kept: Uint8Array[], fingerprint: unknown): void {
    const last = this.#last;
    if (last === undefined) return;
    this.#last = undefined;
    const data = (fingerprint === undefined ? {} : eventJson(last, 0, last.length)) as Chunk;
    const moves = fingerprint !== undefined && data.system_fingerprint === undefined;
    const moved = { ...data, system_fingerprint: fingerprint };
    kept.push(moves ? encoder.encode(`data: ${JSON.stringify(moved)}\n\n`) : last);
  }

  /** What was held back when the stream is over. */
  rest(): Uint8Array<ArrayBuffer> {
    const kept: Uint8Array[] = [];
    this.#release(kept, undefined);
    const chunk = this.#splitter?.rest();
    if (chunk !== undefined) kept.push(encoder.encode(`data: ${JSON.stringify(chunk)}\n\n`));
    return kept.length === 0 ? EMPTY : concat(kept);
  }
}

interface Chunk {
  choices?: unknown;
  system_fingerprint?: unknown;
}

// A chunk with the finish reason of a choice.
function isLast({ choices }: Chunk): boolean {
  return Array.isArray(choices) && choices.some((choice) => typeof choice?.finish_reason === "string");
}
