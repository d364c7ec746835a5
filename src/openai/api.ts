// SPDX-License-Identifier: Apache-2.0
// The inference API: which paths there are and what their requests have in common.

export const KINDS = [
  "chat",
  "completion",
  "responses",
  "messages",
  "embeddings",
  "rerank",
  "score",
  "tokenize",
  "detokenize",
  "count_tokens",
  "other", // JSON with a model in it, or none where there is but one
  "form", // a multipart form with a model in it
] as const;

/** What a request asks an engine to do. */
export type Kind = (typeof KINDS)[number];

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
  ["/v1/audio/transcriptions", "form"],
  ["/v1/audio/translations", "form"],
  ["/v1/audio/speech", "other"],
  ["/v1/images/generations", "other"],
  ["/v1/images/edits", "form"],
  ["/v1/images/variations", "form"],
  ["/v1/moderations", "other"],
  ["/v1/chat/completions/render", "other"],
  ["/v1/completions/render", "other"],
  ["/classify", "other"],
  ["/pooling", "other"],
  ["/generate", "other"],
  ["/invocations", "other"],
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
