// SPDX-License-Identifier: Apache-2.0
// The inference API: which paths there are and what their requests have in common.

/** What a request asks an engine to do. */
export type Kind =
  | "chat"
  | "completion"
  | "responses"
  | "messages"
  | "embeddings"
  | "rerank"
  | "score"
  | "tokenize"
  | "detokenize"
  | "count_tokens";

/** Paths that take a POST with a model in its body. */
export const INFERENCE_PATHS: ReadonlyMap<string, Kind> = new Map([
  ["/v1/chat/completions", "chat"],
  ["/v1/completions", "completion"],
  ["/v1/responses", "responses"],
  ["/v1/messages", "messages"],
  ["/v1/messages/count_tokens", "count_tokens"],
  ["/v1/embeddings", "embeddings"],
  ["/rerank", "rerank"],
  ["/v1/rerank", "rerank"],
  ["/v2/rerank", "rerank"],
  ["/score", "score"],
  ["/v1/score", "score"],
  ["/tokenize", "tokenize"],
  ["/detokenize", "detokenize"],
]);

/** Kinds that generate text from a prompt whose KV cache an engine may hold. */
const GENERATING: ReadonlySet<Kind> = new Set<Kind>(["chat", "completion", "responses", "messages"]);

/** Whether a request generates text: its prompt is prefilled and its answer may be a stream. */
export function generates(kind: Kind): boolean {
  return GENERATING.has(kind);
}

/** Whose shape errors and streams have: OpenAI's, or Anthropic's. */
export function dialectOf(kind: Kind | undefined): "openai" | "responses" | "anthropic" {
  if (kind === "messages" || kind === "count_tokens") return "anthropic";
  return kind === "responses" ? "responses" : "openai";
}
