// SPDX-License-Identifier: Apache-2.0
// The access log: one JSON object a request, or a line for people. The names that users of the system know mean what they mean to them: ttft
// counts from the sending, first_rt and last_rt are times of day, use_load and use_cache are 0 or 1.

import type { LogConfig } from "../config/log.ts";
import { LineFile } from "./line_file.ts";
import type { Outcome } from "./outcome.ts";

export interface AccessRecord {
  time: string;
  trace_id: string;
  /** As the client wrote it, without a query. */
  path: string;
  route_name: string;
  /** Header fields that the rule asks for. */
  header_num: number;
  ai_model_name: string;
  /** The rule's scene_name; without one, the name that the engine got. */
  target_model_name: string;
  ai_backend_protocol: string;
  ai_stream_request: boolean;
  lora_id: string;
  /** Whether a user's message has more than text in it. */
  is_vl: boolean;
  /** Name of the tenant; empty when it is not known. */
  tenant: string;
  endpoint: string;
  /** Name of its load at the metadata center; empty when it has no endpoint. */
  metacenter_reqid: string;
  status: number;
  outcome: Outcome;
  is_local_error: boolean;
  prompt_bytes: number;
  /** Whether loads, and what engines are known to hold of the prompt, had a part in the decision. */
  use_load: 0 | 1;
  use_cache: 0 | 1;
  /** Time that the look at the loads, and at the prefixes, took; empty without a decision. */
  load_duration: string;
  cache_duration: string;
  /** Leading prompt bytes that the endpoint was presumed to hold, and whole chunks of 512 of them. */
  cached_bytes: number;
  cached_chunks: number;
  tries: number;
  /** Milliseconds that the request waited for an endpoint, and what was predicted for its first token when it was sent. */
  queued_ms: number;
  predicted_ttft: number | null;
  /** As the engine counted them; null when it did not say. */
  prompt_tokens: number | null;
  completion_tokens: number | null;
  cached_tokens: number | null;
  /** Prompt tokens that its engine had told to hold when it was chosen; null where that was presumed. */
  known_cached_tokens: number | null;
  /** Milliseconds from the sending to the first token that was seen; 0 when none was. */
  ttft: number;
  /** When the first token and the last byte of the answer came, UTC; null when they did not. */
  first_rt: string | null;
  last_rt: string | null;
  /** Milliseconds from the request to its first token, null when none was seen, and to its end. */
  ttft_ms: number | null;
  duration_ms: number;
}

export type AccessLogOptions = Pick<LogConfig, "path" | "lines" | "rotation" | "format" | "sample">;

export class AccessLog {
  readonly #file: LineFile;
  readonly #print: (record: AccessRecord) => string;

  /** @param random Uniform in [0, 1). */
  constructor(
    readonly options: AccessLogOptions,
    failed: (error: Error) => void,
    readonly random: () => number = Math.random,
  ) {
    const { path, lines, rotation, format } = options;
    this.#file = new LineFile({ path, lines, rotation, failed });
    const text = format === "text" || (format === "auto" && path === "-" && Deno.stdout.isTerminal());
    this.#print = text ? lineOf : JSON.stringify;
  }

  get dropped(): number {
    return this.#file.dropped;
  }

  /** Whether a request that ended so is one of those that are written. */
  takes(outcome: Outcome): boolean {
    return this.options.sample >= 1 || outcome !== "ok" || this.random() < this.options.sample;
  }

  write(record: AccessRecord): void {
    this.#file.write(this.#print(record));
  }

  /** Writes what waits; what requests that go on still write opens the file each time. */
  close(): Promise<void> {
    return this.#file.close();
  }
}

/** A record for people: 10:00:00.123 200 /v1/chat/completions qwen3 10.0.0.1:8000 214 ms, first token 35 ms, 12 + 20 tokens */
export function lineOf(record: AccessRecord): string {
  const { time, status, path, ai_model_name: model, endpoint, tenant, duration_ms, ttft_ms, queued_ms } = record;
  const { prompt_tokens, completion_tokens, cached_tokens, outcome, tries } = record;
  const facts = [`${Math.round(duration_ms)} ms`];
  if (queued_ms >= 1) facts.push(`waited ${Math.round(queued_ms)} ms`);
  if (ttft_ms !== null) facts.push(`first token ${Math.round(ttft_ms)} ms`);
  if (prompt_tokens !== null) {
    const cached = cached_tokens ? ` (${cached_tokens} cached)` : "";
    facts.push(`${prompt_tokens}${cached} + ${completion_tokens ?? 0} tokens`);
  }
  if (tries > 1) facts.push(`${tries} tries`);
  if (tenant !== "" && tenant !== "anonymous") facts.push(`tenant ${tenant}`);
  if (outcome !== "ok") facts.push(outcome, `id ${record.trace_id}`);
  const words = [time.slice(11, 23), String(status), path, model, endpoint].filter((word) => word !== "");
  // What a client wrote must not look like a line of its own, or move the cursor.
  return `${words.join(" ")} ${facts.join(", ")}`.replaceAll(/\p{Cc}/gu, "?");
}

/** A time of day as the log writes it: 2026-11-25 10:00:00.123 */
export function timeOfDay(epochMs: number): string {
  return new Date(epochMs).toISOString().slice(0, -1).replace("T", " ");
}

/** A duration as the log writes it. */
export function duration(ms: number): string {
  return `${ms.toFixed(3)}ms`;
}
