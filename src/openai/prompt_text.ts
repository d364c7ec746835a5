// SPDX-License-Identifier: Apache-2.0
// The canonical prompt text: the JSON of `messages` (or the `prompt`) with sorted keys but `role` and `content` first and
// no white space, so that the same conversation gives the same prefix whoever wrote its JSON. Tools stand before the
// messages, as in the chat templates, and a cache salt before everything.
//
// The payload of a multimodal part is replaced by its digest, stretched to a length that reflects its cost: equal images
// match, different ones do not, and a megabyte of base64 does not swamp the prefix.

import { GatewayError } from "../base/errors.ts";
import type { Kind } from "./api.ts";
import type { InferenceRequest } from "./request.ts";

/** Hex digest of a text of any length. */
export type Digest = (text: string) => string;

/** Characters that stand for one payload, by kind of part (reference figures of the first implementation). */
const PAYLOAD_CHARACTERS = new Map([
  ["image_url", 4_096],
  ["image", 4_096],
  ["input_image", 4_096],
  ["input_file", 4_096],
  ["document", 4_096],
  ["video_url", 8_192],
  ["video", 8_192],
  ["input_audio", 40_960],
  ["audio_url", 40_960],
  ["audio", 40_960],
]);
/** What `promptText` needs beside the request. */
export interface PromptOptions {
  readonly digest: Digest;
  /** Characters of all stretched payloads of one prompt; beyond, a payload is its bare digest. */
  readonly payloadCharacters: number;
}

/**
 * The prompt text of a request; empty for one that computes no prompt. Throws GatewayError (invalid_request) when it
 * nests deeper than the stack allows.
 */
export function promptText({ kind, body, cacheSalt }: InferenceRequest, options: PromptOptions): string {
  try {
    const tools = Array.isArray(body.tools) && body.tools.length > 0 ? canonical(body.tools) : "";
    const text = tools + textOf(kind, body, options);
    return cacheSalt === undefined ? text : `${cacheSalt}\n${text}`;
  } catch (error) {
    if (error instanceof RangeError) {
      throw new GatewayError("invalid_request", "The request is nested too deeply", null, error);
    }
    throw error;
  }
}

function textOf(kind: Kind, body: Readonly<Record<string, unknown>>, options: PromptOptions): string {
  switch (kind) {
    case "chat":
      return canonicalMessages(body.messages as unknown[], options);
    case "messages":
      return canonicalMessages(withSystem(body.system, body.messages as unknown[]), options);
    case "responses": {
      const input = typeof body.input === "string" ? [{ role: "user", content: body.input }] : body.input ?? [];
      return canonicalMessages(withSystem(body.instructions, input as unknown[]), options);
    }
    case "completion":
      return typeof body.prompt === "string" ? body.prompt : canonical(body.prompt);
    case "embeddings":
      return canonical(body.input ?? body.messages);
    case "rerank":
      return canonical([body.query ?? null, body.documents ?? null]);
    case "score":
      return canonical([body.text_1 ?? body.queries ?? null, body.text_2 ?? body.documents ?? body.items ?? null]);
    default:
      return "";
  }
}

// Instructions beside the messages are what a system message is within them.
function withSystem(system: unknown, messages: unknown[]): unknown[] {
  return system === undefined || system === null ? messages : [{ role: "system", content: system }, ...messages];
}

// Fast path, most chats: every message is {role, content: text} in this order, and JSON.stringify is canonical already.
function canonicalMessages(messages: unknown[], options: PromptOptions): string {
  for (const message of messages) {
    let position = 0;
    for (const key in message as Record<string, unknown>) {
      if (
        position > 1 || key !== (position === 0 ? "role" : "content") ||
        typeof (message as Record<string, unknown>)[key] !== "string"
      ) return new MultimodalText(options).messages(messages);
      position++;
    }
  }
  return JSON.stringify(messages);
}

function canonical(value: unknown): string {
  if (typeof value !== "object" || value === null) return JSON.stringify(value);
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
  return canonicalObject(value as Record<string, unknown>, canonical);
}

function canonicalObject(object: Record<string, unknown>, field: (value: unknown, key: string) => string): string {
  const fields = Object.keys(object).sort(byCanonicalOrder)
    .map((key) => `${JSON.stringify(key)}:${field(object[key], key)}`);
  return `{${fields.join(",")}}`;
}

/** The text of one prompt whose messages may have parts with payloads. */
class MultimodalText {
  #stretched = 0;

  constructor(readonly options: PromptOptions) {}

  messages(messages: unknown[]): string {
    const texts = messages.map((message) =>
      typeof message !== "object" || message === null
        ? canonical(message)
        : canonicalObject(message as Record<string, unknown>, (value, key) => {
          if (key !== "content" || !Array.isArray(value)) return canonical(value);
          return `[${value.map((part) => this.#part(part)).join(",")}]`;
        })
    );
    return `[${texts.join(",")}]`;
  }

  #part(part: unknown): string {
    const { type, ...payload } = (part ?? {}) as Record<string, unknown>;
    const characters = typeof type === "string" ? PAYLOAD_CHARACTERS.get(type) : undefined;
    if (characters === undefined) return canonical(part);
    // Everything of the part but its type goes into the digest.
    let hex = this.options.digest(canonical(payload));
    if (this.#stretched + characters <= this.options.payloadCharacters) {
      this.#stretched += characters;
      hex = hex.repeat(Math.ceil(characters / hex.length)).slice(0, characters);
    }
    return `{"type":${JSON.stringify(type)},"payload":"${hex}"}`;
  }
}

function byCanonicalOrder(a: string, b: string): number {
  return rank(a) - rank(b) || (a < b ? -1 : a > b ? 1 : 0);
}

function rank(key: string): number {
  return key === "role" ? 0 : key === "content" ? 1 : 2;
}
