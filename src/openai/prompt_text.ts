// SPDX-License-Identifier: Apache-2.0
// The canonical prompt text: the JSON of `messages` (or the `prompt`) with sorted keys but `role` and `content` first and
// no white space, so that the same conversation gives the same prefix whoever wrote its JSON. Tools stand before the
// messages, as in the chat templates, and a cache salt before everything.
//
// What the engine's chat template does not see is not in it: marks for caches, fields that are null or that only answers
// have, how arguments of a tool are spaced. One part of text is that text, and a list of one prompt is that prompt.
//
// The payload of a multimodal part is replaced by its digest, stretched to a length that reflects its cost: equal images
// match, different ones do not, and a megabyte of base64 does not swamp the prefix.

import { GatewayError } from "../base/errors.ts";
import type { Kind } from "./api.ts";
import { goPromptText } from "./go_prompt.ts";
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
/** Whether parts of this type have a payload, of which a digest is enough. */
export function isPayload(type: unknown): boolean {
  return typeof type === "string" && PAYLOAD_CHARACTERS.has(type);
}

/** What `promptText` needs beside the request. */
export interface PromptOptions {
  readonly digest: Digest;
  /** Characters of all stretched payloads of one prompt; beyond, a payload is its bare digest. */
  readonly payloadCharacters: number;
  /** Chats have the text that the Go gateway has of them, so that both kinds find each other's prefixes. */
  readonly goChats?: boolean;
}

/**
 * The prompt text of a request; empty for one that computes no prompt. Throws GatewayError (invalid_request) when it
 * nests deeper than the stack allows.
 */
export function promptText({ kind, body, cacheSalt }: InferenceRequest, options: PromptOptions): string {
  try {
    if (options.goChats && kind === "chat" && cacheSalt === undefined) {
      const text = goPromptText(body.messages as unknown[]);
      if (text !== undefined) return text;
    }
    const text = toolsText(body.tools) + textOf(kind, body, options);
    return cacheSalt === undefined ? text : `${cacheSalt}\n${text}`;
  } catch (error) {
    if (error instanceof RangeError) {
      throw new GatewayError("invalid_request", "The request is nested too deeply", null, error);
    }
    throw error;
  }
}

/** The text of tools, which stands before that of the messages. */
export function toolsText(tools: unknown): string {
  return Array.isArray(tools) && tools.length > 0 ? canonical(tools) : "";
}

/** The text of one message among others; undefined for one with payloads, of which it matters what is before it. */
export function messageText(message: unknown): string | undefined {
  const texts = new MessageText({ digest: () => "", payloadCharacters: 0 });
  const text = texts.messages([message]).slice(1, -1);
  return texts.hasPayload ? undefined : text;
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
      if (typeof body.prompt === "string") return body.prompt;
      return body.prompt === undefined ? options.digest(canonical(body.prompt_embeds)) : promptOf(body.prompt);
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

// A list of one prompt is that prompt; token ids are written as they are counted.
function promptOf(prompt: unknown): string {
  const only = Array.isArray(prompt) && prompt.length === 1 && typeof prompt[0] !== "number" ? prompt[0] : prompt;
  return typeof only === "string" ? only : canonical(only);
}

// Instructions beside the messages are what a system message is within them.
function withSystem(system: unknown, messages: unknown[]): unknown[] {
  if (system === undefined || system === null) return messages;
  if (!Array.isArray(system)) return [{ role: "system", content: system }, ...messages];
  const blocks = system.filter((block) => !isBillingLine(block));
  return blocks.length === 0 ? messages : [{ role: "system", content: blocks }, ...messages];
}

/** A block of Claude Code's that changes with every request; engines leave it out of the prompt. */
const BILLING_LINE = "x-anthropic-billing-header:";

function isBillingLine(block: unknown): boolean {
  const { text } = (block ?? {}) as { text?: unknown };
  return typeof text === "string" && text.startsWith(BILLING_LINE);
}

// Fast path, most chats: every message is {role, content: text} in this order, and JSON.stringify is canonical already.
function canonicalMessages(messages: unknown[], options: PromptOptions): string {
  for (const message of messages) {
    let position = 0;
    for (const key in message as Record<string, unknown>) {
      if (
        position > 1 || key !== (position === 0 ? "role" : "content") ||
        typeof (message as Record<string, unknown>)[key] !== "string"
      ) return new MessageText(options).messages(messages);
      position++;
    }
  }
  return JSON.stringify(messages);
}

/** Fields that no chat template sees: marks for caches, and what only answers have. */
const UNSEEN = new Set(["cache_control", "annotations", "refusal", "logprobs"]);
/** Of the items of the Responses API: their place in the store. */
const UNSEEN_OF_ITEMS = new Set(["id", "status"]);
/** Kinds of parts that are text and nothing else. */
const TEXT_PARTS = new Set(["text", "input_text", "output_text"]);

function canonical(value: unknown): string {
  if (typeof value !== "object" || value === null) return JSON.stringify(value);
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
  return canonicalObject(value as Record<string, unknown>, canonical);
}

function canonicalObject(object: Record<string, unknown>, field: (value: unknown, key: string) => string): string {
  const fields = Object.keys(object)
    .filter((key) => object[key] !== null && object[key] !== undefined && !UNSEEN.has(key))
    .sort(byCanonicalOrder)
    .map((key) => `${JSON.stringify(key)}:${field(object[key], key)}`);
  return `{${fields.join(",")}}`;
}

/** The text of one prompt whose messages are not all of plain text. */
class MessageText {
  #stretched = 0;
  /** Whether a payload was among the parts. */
  hasPayload = false;

  constructor(readonly options: PromptOptions) {}

  messages(messages: unknown[]): string {
    return `[${messages.map((message) => this.#message(message)).join(",")}]`;
  }

  #message(message: unknown): string {
    if (typeof message !== "object" || message === null) return canonical(message);
    const { type, ...fields } = message as Record<string, unknown>;
    const item = type === "message" || (type === undefined && "role" in fields);
    // An item of the Responses API is a message unless its type says another thing.
    const seen = item ? fields : message as Record<string, unknown>;
    const kept = Object.fromEntries(
      Object.entries(seen).filter(([key]) => type === undefined || !UNSEEN_OF_ITEMS.has(key)),
    );
    return canonicalObject(kept, (value, key) => {
      if (key === "content") return this.#content(value);
      if (key === "tool_calls" && Array.isArray(value)) return `[${value.map(toolCall).join(",")}]`;
      return canonical(value);
    });
  }

  #content(content: unknown): string {
    if (!Array.isArray(content)) return canonical(content);
    const only = content.length === 1 ? textOfPart(content[0]) : undefined;
    if (only !== undefined) return JSON.stringify(only);
    return `[${content.map((part) => this.#part(part)).join(",")}]`;
  }

  #part(part: unknown): string {
    const text = textOfPart(part);
    if (text !== undefined) return `{"text":${JSON.stringify(text)}}`;
    const { type, cache_control: _, ...payload } = (part ?? {}) as Record<string, unknown>;
    const characters = typeof type === "string" ? PAYLOAD_CHARACTERS.get(type) : undefined;
    if (characters === undefined) return canonical(part);
    this.hasPayload = true;
    // Everything of the part but its type goes into the digest.
    let hex = this.options.digest(canonical(payload));
    if (this.#stretched + characters <= this.options.payloadCharacters) {
      this.#stretched += characters;
      hex = hex.repeat(Math.ceil(characters / hex.length)).slice(0, characters);
    }
    return `{"type":${JSON.stringify(type)},"payload":"${hex}"}`;
  }
}

/** The text of a part that is text and nothing else; of a part without a type too, as engines take it. */
function textOfPart(part: unknown): string | undefined {
  if (typeof part === "string") return part;
  if (typeof part !== "object" || part === null) return undefined;
  const { type, text } = part as { type?: unknown; text?: unknown };
  return typeof text === "string" && (type === undefined || TEXT_PARTS.has(type as string)) ? text : undefined;
}

// Engines parse the arguments before the template sees them; a stream's index is the client's leftover.
function toolCall(call: unknown): string {
  if (typeof call !== "object" || call === null) return canonical(call);
  const { index: _, ...seen } = call as Record<string, unknown>;
  return canonicalObject(seen, (value, key) => {
    if (key !== "function" || typeof value !== "object" || value === null) return canonical(value);
    return canonicalObject(value as Record<string, unknown>, (inner, name) => {
      return name === "arguments" && typeof inner === "string" ? canonical(parsed(inner)) : canonical(inner);
    });
  });
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

function byCanonicalOrder(a: string, b: string): number {
  return rank(a) - rank(b) || (a < b ? -1 : a > b ? 1 : 0);
}

function rank(key: string): number {
  return key === "role" ? 0 : key === "content" ? 1 : 2;
}
