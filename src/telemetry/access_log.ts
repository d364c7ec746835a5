// SPDX-License-Identifier: Apache-2.0
// The access log: one JSON object a request. The names that users of the system know mean what they mean to them: ttft
// counts from the sending, first_rt and last_rt are times of day, use_load and use_cache are 0 or 1.

import type { LogConfig } from "../config/log.ts";
import { LineFile } from "./line_file.ts";
import type { Outcome } from "./outcome.ts";

export interface AccessRecord {
  time: string;
  trace_id: string;
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
  /** Milliseconds from the sending to the first token that was seen; 0 when none was. */
  ttft: number;
  /** When the first token and the last byte of the answer came, UTC; null when they did not. */
  first_rt: string | null;
  last_rt: string | null;
  /** Milliseconds from the request to its first token, null when none was seen, and to its end. */
  ttft_ms: number | null;
  duration_ms: number;
}

export class AccessLog {
  readonly #file: LineFile;

  constructor(
    readonly path: string,
    { lines, rotation }: Pick<LogConfig, "lines" | "rotation">,
    failed: (error: Error) => void,
  ) {
    this.#file = new LineFile({ path, lines, rotation, failed });
  }

  get dropped(): number {
    return this.#file.dropped;
  }

  write(record: AccessRecord): void {
    this.#file.write(JSON.stringify(record));
  }

  /** Another log takes over. */
  retire(): void {
    this.#file.retire();
  }

  close(): void {
    this.#file.close();
  }
}

/** A time of day as the log writes it: 2026-11-25 10:00:00.123 */
export function timeOfDay(epochMs: number): string {
  return new Date(epochMs).toISOString().slice(0, -1).replace("T", " ");
}

/** A duration as the log writes it. */
export function duration(ms: number): string {
  return `${ms.toFixed(3)}ms`;
}
