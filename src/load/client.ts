// SPDX-License-Identifier: Apache-2.0
// One streamed chat request to whatever speaks the OpenAI API, with what is to be known of how it went.

import { ServerSentEventParseStream } from "@std/http/server-sent-event-parse-stream";

export interface Target {
  /** Of the API, as http://127.0.0.1:10000; with /v1 or without. */
  readonly url: string;
  readonly model: string;
  readonly apiKey: string | undefined;
}

export interface ChatLoad {
  readonly prompt: string;
  readonly maxTokens: number;
  /** Asks the engine to generate all of them, where it knows ignore_eos. */
  readonly ignoreEos: boolean;
}

/** How a request went. Times are in ms from its sending. */
export interface Measured {
  /** Why it failed: a status, an error's code, or that the connection broke; undefined when it was answered. */
  readonly failure: string | undefined;
  /** NaN without a token. */
  readonly ttftMs: number;
  readonly totalMs: number;
  readonly outputTokens: number;
  /** As the engine says; NaN where it does not. */
  readonly promptTokens: number;
  readonly cachedTokens: number;
}

interface Chunk {
  readonly error?: { readonly code?: unknown; readonly message?: unknown };
  readonly choices?: readonly { readonly delta?: Readonly<Record<string, unknown>> | null }[] | null;
  readonly usage?: {
    readonly prompt_tokens?: number;
    readonly completion_tokens?: number;
    readonly prompt_tokens_details?: { readonly cached_tokens?: number } | null;
  } | null;
}

/** The API's base, with /v1. */
export function baseOf(url: string): string {
  const bare = url.replace(/\/+$/, "");
  return bare.endsWith("/v1") ? bare : `${bare}/v1`;
}

function headersOf({ apiKey }: Pick<Target, "apiKey">): Record<string, string> {
  return apiKey === undefined ? {} : { authorization: `Bearer ${apiKey}` };
}

/** The first model that a server lists. Throws Error with a plain message. */
export async function firstModel(target: Pick<Target, "url" | "apiKey">): Promise<string> {
  const url = `${baseOf(target.url)}/models`;
  let response: Response;
  try {
    response = await fetch(url, { headers: headersOf(target) });
  } catch (error) {
    throw new Error(`Cannot reach ${url}: ${(error as Error).message}`, { cause: error });
  }
  const text = await response.text();
  let model: string | undefined;
  try {
    model = response.ok ? (JSON.parse(text) as { data?: { id?: string }[] | null } | null)?.data?.[0]?.id : undefined;
  } catch {
    // it speaks something else
  }
  if (model === undefined && response.status === 401) {
    throw new Error(`${url} wants ${target.apiKey === undefined ? "a" : "another"} key: --api-key-env`);
  }
  if (model === undefined) throw new Error(`Cannot find a model at ${url} (status ${response.status}): name one`);
  return model;
}

/** Sends a request and reads its answer to the end; never throws. */
export async function measure(
  { url, model, apiKey }: Target,
  { prompt, maxTokens, ignoreEos }: ChatLoad,
): Promise<Measured> {
  const began = performance.now();
  let [ttftMs, chunks] = [NaN, 0];
  let usage: Chunk["usage"];
  let failure: string | undefined;
  try {
    const response = await fetch(`${baseOf(url)}/chat/completions`, {
      method: "POST",
      headers: { "content-type": "application/json", ...headersOf({ apiKey }) },
      body: JSON.stringify({
        model,
        stream: true,
        stream_options: { include_usage: true },
        max_tokens: maxTokens,
        ...(ignoreEos ? { ignore_eos: true } : {}),
        messages: [{ role: "user", content: prompt }],
      }),
    });
    if (!response.ok) failure = failureOf(response.status, await response.text());
    else {
      let done = false;
      const events = response.body!.pipeThrough(new ServerSentEventParseStream());
      for await (const { data } of events as AsyncIterable<{ data?: string }>) {
        if (data === undefined || data === "[DONE]") {
          done ||= data === "[DONE]";
          continue;
        }
        const chunk = JSON.parse(data) as Chunk;
        if (chunk.error) failure = String(chunk.error.code ?? chunk.error.message ?? "error");
        usage = chunk.usage ?? usage;
        if (!hasToken(chunk)) continue;
        chunks++;
        if (chunks === 1) ttftMs = performance.now() - began;
      }
      if (!done) failure ??= "broke off";
    }
  } catch {
    failure ??= "connection lost";
  }
  return {
    failure,
    ttftMs,
    totalMs: performance.now() - began,
    outputTokens: usage?.completion_tokens ?? chunks,
    promptTokens: usage?.prompt_tokens ?? NaN,
    cachedTokens: usage?.prompt_tokens_details?.cached_tokens ?? NaN,
  };
}

function hasToken({ choices }: Chunk): boolean {
  return !!choices?.some(({ delta }) =>
    delta && ["content", "reasoning_content", "reasoning", "tool_calls"].some((key) => !!delta[key])
  );
}

function failureOf(status: number, body: string): string {
  try {
    const { error } = JSON.parse(body) as { error?: { code?: unknown } };
    if (typeof error?.code === "string") return `${status} ${error.code}`;
  } catch {
    // no error of the API's
  }
  return String(status);
}
