// SPDX-License-Identifier: Apache-2.0
// The access log: one JSON object a request, under the field names that users of the system know. Lines are buffered and
// written a few times a second; a full buffer drops lines and counts them, it never delays a request.

import type { Outcome } from "./outcome.ts";

export interface AccessRecord {
  time: string;
  trace_id: string;
  route_name: string;
  ai_model_name: string;
  target_model_name: string;
  ai_backend_protocol: string;
  ai_stream_request: boolean;
  lora_id: string;
  /** Name of the tenant; empty when it is not known. */
  tenant: string;
  endpoint: string;
  status: number;
  outcome: Outcome;
  is_local_error: boolean;
  prompt_bytes: number;
  use_cache: boolean;
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
  /** Milliseconds from the request to the first token; null when there was none. */
  ttft: number | null;
  /** Milliseconds from the request to the first and the last byte of the answer. */
  first_rt: number | null;
  last_rt: number;
}

const MAX_LINES = 10_000;
const FLUSH_MS = 200;

export class AccessLog {
  #lines: string[] = [];
  #timer: ReturnType<typeof setTimeout> | undefined;
  #file: Deno.FsFile | undefined;
  #retired = false;
  dropped = 0;

  /** `path` is a file to append to, or "-" for standard output. */
  constructor(readonly path: string) {
    if (path !== "-") this.#file = openLog(path);
  }

  write(record: AccessRecord): void {
    if (this.#lines.length >= MAX_LINES) {
      this.dropped++;
      return;
    }
    this.#lines.push(JSON.stringify(record));
    this.#timer ??= setTimeout(() => this.flush(), FLUSH_MS);
  }

  /** Writes what is buffered. */
  flush(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    if (this.#lines.length === 0) return;
    const bytes = new TextEncoder().encode(`${this.#lines.join("\n")}\n`);
    this.#lines = [];
    const own = this.#retired && this.path !== "-" ? openLog(this.path) : undefined;
    const sink = own ?? this.#file ?? Deno.stdout;
    for (let at = 0; at < bytes.length;) at += sink.writeSync(bytes.subarray(at));
    own?.close();
  }

  /** Another log takes over: what is still written here, by requests that go on, opens the file each time. */
  retire(): void {
    this.close();
    this.#retired = true;
  }

  close(): void {
    this.flush();
    this.#file?.close();
    this.#file = undefined;
  }
}

function openLog(path: string): Deno.FsFile {
  return Deno.openSync(path, { append: true, create: true });
}
