// SPDX-License-Identifier: Apache-2.0
// The canonical prompt text: the JSON of `messages` (or the `prompt`) with sorted keys but `role` and `content` first and
// no white space, so that the same conversation gives the same prefix whoever wrote its JSON. Tools stand before the
// messages, as in the chat templates, and a cache salt before everything.
//
// The payload of a multimodal part is replaced by its digest, stretched to a length that reflects its cost: equal images
// match, different ones do not, and a megabyte of base64 does not swamp the prefix.

import { GatewayError } from "../base/errors.ts";
import type { InferenceRequest } from "./request.ts";

/** Hex digest of a text of any length. */
export type Digest = (text: string) => string;

/** Characters that stand for one payload, by kind (reference figures of the first implementation). */
const PAYLOAD_CHARACTERS: Record<string, number> = {
  image_url: 4_096,
  image: 4_096,
  input_image: 4_096,
  video_url: 8_192,
  video: 8_192,
  input_audio: 40_960,
  audio_url: 40_960,
  audio: 40_960,
};

/** Throws GatewayError (invalid_request) when the messages nest deeper than the stack allows. */
export function promptText(request: InferenceRequest, digest: Digest): string {
  try {
    let text = typeof request.prompt === "string"
      ? request.prompt
      : canonicalMessages(request.prompt as unknown[], digest);
    if (request.tools !== undefined) text = canonical(request.tools, digest) + text;
    return request.cacheSalt === undefined ? text : `${request.cacheSalt}\n${text}`;
  } catch (error) {
    if (error instanceof RangeError) {
      throw new GatewayError("invalid_request", "The request is nested too deeply", null, error);
    }
    throw error;
  }
}

// Fast path, most chats: every message is {role, content: text} in this order, and JSON.stringify is canonical already.
function canonicalMessages(messages: unknown[], digest: Digest): string {
  for (const message of messages) {
    if (typeof message !== "object" || message === null) return canonical(messages, digest);
    let position = 0;
    for (const key in message) {
      if (position > 1 || key !== (position === 0 ? "role" : "content")) return canonical(messages, digest);
      if (typeof (message as Record<string, unknown>)[key] !== "string") return canonical(messages, digest);
      position++;
    }
  }
  return JSON.stringify(messages);
}

function canonical(value: unknown, digest: Digest): string {
  if (typeof value !== "object" || value === null) return JSON.stringify(value);
  if (Array.isArray(value)) return `[${value.map((item) => canonical(item, digest)).join(",")}]`;
  const object = value as Record<string, unknown>;
  const payload = typeof object.type === "string" ? PAYLOAD_CHARACTERS[object.type] : undefined;
  if (payload !== undefined) {
    return `{"type":${JSON.stringify(object.type)},"payload":"${stretch(object, payload, digest)}"}`;
  }
  const fields = Object.keys(object).sort(byCanonicalOrder)
    .map((key) => `${JSON.stringify(key)}:${canonical(object[key], digest)}`);
  return `{${fields.join(",")}}`;
}

function byCanonicalOrder(a: string, b: string): number {
  return rank(a) - rank(b) || (a < b ? -1 : a > b ? 1 : 0);
}

function rank(key: string): number {
  return key === "role" ? 0 : key === "content" ? 1 : 2;
}

// Everything of the part but its type goes into the digest.
function stretch(part: Record<string, unknown>, characters: number, digest: Digest): string {
  const { type: _, ...payload } = part;
  const hex = digest(canonical(payload, digest));
  return hex.repeat(Math.ceil(characters / hex.length)).slice(0, characters);
}
