// SPDX-License-Identifier: Apache-2.0
// What the gateway reads of a request body; everything else passes untouched. The body is parsed once, and its bytes go
// to the engine as they came.

import { GatewayError } from "../base/errors.ts";

export type Endpoint = "chat" | "completion";

/** A decoded inference request. */
export interface InferenceRequest {
  readonly endpoint: Endpoint;
  readonly model: string;
  readonly stream: boolean;
  /** `messages` of a chat, `prompt` of a completion. */
  readonly prompt: unknown;
  readonly tools: unknown;
  /** vLLM's salt: equal prompts with different salts share no cache. */
  readonly cacheSalt: string | undefined;
}

const decoder = new TextDecoder();
const strictDecoder = new TextDecoder("utf-8", { fatal: true });

// The lenient decoder is four times faster; a replacement character in its result says when to ask the strict one.
function decodeText(bytes: Uint8Array): string {
  const text = decoder.decode(bytes);
  return text.includes("\uFFFD") ? strictDecoder.decode(bytes) : text;
}

/**
 * Decodes a body; without an endpoint, one with `messages` is a chat. Throws GatewayError: invalid_json,
 * invalid_request.
 */
export function decodeRequest(
  endpoint: Endpoint | undefined,
  bytes: Uint8Array,
): { request: InferenceRequest; text: string } {
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
  return { request: read(endpoint ?? ("messages" in fields ? "chat" : "completion"), fields), text };
}

function read(endpoint: Endpoint, body: Record<string, unknown>): InferenceRequest {
  const { model, stream, cache_salt } = body;
  if (typeof model !== "string" || model === "") {
    throw new GatewayError("invalid_request", "`model` is required: a non-empty string", "model");
  }
  if (stream !== undefined && stream !== null && typeof stream !== "boolean") {
    throw new GatewayError("invalid_request", "`stream` is to be true or false", "stream");
  }
  return {
    endpoint,
    model,
    stream: stream === true,
    prompt: endpoint === "chat" ? messagesOf(body) : promptOf(body),
    tools: Array.isArray(body.tools) && body.tools.length > 0 ? body.tools : undefined,
    cacheSalt: typeof cache_salt === "string" && cache_salt !== "" ? cache_salt : undefined,
  };
}

function messagesOf({ messages }: Record<string, unknown>): unknown {
  if (!Array.isArray(messages) || messages.length === 0) {
    throw new GatewayError("invalid_request", "`messages` is required: a non-empty array", "messages");
  }
  const odd = messages.findIndex((message) =>
    typeof message !== "object" || message === null || Array.isArray(message)
  );
  if (odd >= 0) {
    throw new GatewayError("invalid_request", `\`messages[${odd}]\` is to be an object`, `messages[${odd}]`);
  }
  return messages;
}

function promptOf({ prompt }: Record<string, unknown>): unknown {
  if (typeof prompt === "string" || (Array.isArray(prompt) && prompt.length > 0)) return prompt;
  throw new GatewayError("invalid_request", "`prompt` is required: a string or a non-empty array", "prompt");
}
