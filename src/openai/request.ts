// SPDX-License-Identifier: Apache-2.0
// What the gateway reads of a request body; everything else passes untouched. The body is parsed once, and its bytes go
// to the engine as they came.

import { GatewayError } from "../base/errors.ts";
import type { FormField } from "./form.ts";
import { generates, type Kind } from "./api.ts";
import { countOf, isTrue } from "./lenient.ts";

/** A decoded inference request. */
export interface InferenceRequest {
  readonly kind: Kind;
  /** Empty when it names none. */
  readonly model: string;
  readonly stream: boolean;
  /** Whether all that it says to a model is known to be text. */
  readonly plainText?: boolean;
  /** Its `stream_options`, undefined without. */
  readonly streamOptions?: unknown;
  /** The parsed body. */
  readonly body: Readonly<Record<string, unknown>>;
  /** Most tokens that it may generate; undefined when it does not say. */
  readonly maxTokens: number | undefined;
  /** Alternatives that its answer has. */
  readonly choices: number;
  /** vLLM's salt: equal prompts with different salts share no cache. */
  readonly cacheSalt: string | undefined;
  /** Byte range of the model's name in a form. */
  readonly modelAt?: { readonly start: number; readonly end: number };
  /** The stored response that this one continues. */
  readonly previousResponse: string | undefined;
}

const decoder = new TextDecoder();
const strictDecoder = new TextDecoder("utf-8", { fatal: true });

// The lenient decoder is four times faster; a replacement character in its result says when to ask the strict one.
function decodeText(bytes: Uint8Array): string {
  const text = decoder.decode(bytes);
  return text.includes("\uFFFD") ? strictDecoder.decode(bytes) : text;
}

const NO_FIELDS = {};

/** The request of a form, of which only the model is read. */
export function decodeForm(model: FormField | undefined): InferenceRequest {
  return { ...read("form", { model: model?.value ?? "" }), body: NO_FIELDS, modelAt: model };
}

/**
 * Decodes a body; without a kind, its fields tell. Throws GatewayError: invalid_json, invalid_request.
 */
export function decodeRequest(kind: Kind | undefined, bytes: Uint8Array): InferenceRequest {
  if (bytes.length === 0) throw new GatewayError("invalid_json", "The request has no body; a JSON object is expected");
  let text: string;
  let body: unknown;
  try {
    text = decodeText(bytes);
  } catch {
    throw new GatewayError("invalid_json", "The request body is not valid UTF-8");
  }
  try {
    body = JSON.parse(text);
  } catch (error) {
    throw new GatewayError("invalid_json", `The request body is not valid JSON: ${(error as Error).message}`);
  }
  if (typeof body !== "object" || body === null || Array.isArray(body)) {
    throw new GatewayError("invalid_request", "The request body is to be a JSON object");
  }
  const fields = body as Record<string, unknown>;
  return read(kind ?? kindOf(fields), fields);
}

function kindOf(fields: Record<string, unknown>): Kind {
  if ("prompt" in fields) return "completion";
  if ("input" in fields) return "responses";
  return "system" in fields ? "messages" : "chat";
}

function read(kind: Kind, body: Record<string, unknown>): InferenceRequest {
  const { stream, cache_salt, previous_response_id } = body;
  const model = body.model ?? "";
  if (typeof model !== "string") throw new GatewayError("invalid_request", "`model` is to be a string", "model");
  check(kind, body);
  return {
    kind,
    model,
    stream: isTrue(stream) && generates(kind),
    streamOptions: body.stream_options,
    body,
    maxTokens: maxTokens(kind, body),
    choices: choicesOf(kind, body),
    cacheSalt: typeof cache_salt === "string" && cache_salt !== "" ? cache_salt : undefined,
    previousResponse: kind === "responses" && typeof previous_response_id === "string" && previous_response_id !== ""
      ? previous_response_id
      : undefined,
  };
}

function choicesOf(kind: Kind, { n, prompt }: Record<string, unknown>): number {
  const answers = Math.max(1, countOf(n) ?? 1);
  const prompts = kind === "completion" && Array.isArray(prompt) && typeof prompt[0] !== "number" ? prompt.length : 1;
  return answers * prompts;
}

function maxTokens(kind: Kind, body: Record<string, unknown>): number | undefined {
  if (!generates(kind)) return 0;
  const max = countOf(body.max_completion_tokens ?? body.max_tokens ?? body.max_output_tokens);
  return max === undefined ? undefined : max * Math.max(1, countOf(body.n) ?? 1);
}

/** Whether a user's message has parts that are no text: images, video, audio, files. */
export function hasMedia(request: InferenceRequest): boolean {
  if (request.plainText) return false;
  const { messages } = request.body;
  return Array.isArray(messages) && messages.some(isMedia);
}

/** Whether a message is a user's and has parts that are no text. */
export function isMedia({ role, content }: { readonly role?: unknown; readonly content?: unknown }): boolean {
  return role === "user" && Array.isArray(content) &&
    content.some((part) => part?.type !== undefined && typeof part.text !== "string");
}

// What an engine could not do without, so that the error names the field; the rest is the engine's to judge.
function check(kind: Kind, body: Record<string, unknown>): void {
  switch (kind) {
    case "chat":
    case "messages":
    case "count_tokens":
      return checkMessages(body.messages);
    case "completion":
      return "prompt_embeds" in body ? undefined : checkText(body, "prompt");
    case "embeddings":
      return checkText(body, "input" in body || !("messages" in body) ? "input" : "messages");
    case "responses":
      if (body.input === undefined && typeof body.prompt === "object" && body.prompt !== null) return;
      return checkText(body, "input");
    default:
      return;
  }
}

function checkMessages(messages: unknown): void {
  if (!Array.isArray(messages) || messages.length === 0) {
    throw new GatewayError("invalid_request", "`messages` is required: a non-empty array", "messages");
  }
  const odd = messages.findIndex((message) =>
    typeof message !== "object" || message === null || Array.isArray(message)
  );
  if (odd >= 0) {
    throw new GatewayError("invalid_request", `\`messages[${odd}]\` is to be an object`, `messages[${odd}]`);
  }
}

function checkText(body: Record<string, unknown>, field: string): void {
  const value = body[field];
  if (typeof value === "string" || (Array.isArray(value) && value.length > 0)) return;
  throw new GatewayError("invalid_request", `\`${field}\` is required: a string or a non-empty array`, field);
}
