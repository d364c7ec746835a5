// SPDX-License-Identifier: Apache-2.0
// A gateway that behaves on the wire as the Go one does: engines by IPv4 address alone, two queries a decision, prompts
// hashed as openai-go writes their messages.

import { goPromptText } from "../../src/openai/go_prompt.ts";
import { parseExact, printExact } from "../../src/metadata/wire.ts";
import { prefixHashes } from "../kernel/twin.ts";

const CHUNK_BYTES = 512;

export interface GoView {
  readonly requests: number;
  readonly promptBytes: number;
}

export class GoGateway {
  constructor(readonly center: string, readonly cluster: string) {}

  async #call(method: string, path: string, body?: unknown): Promise<unknown> {
    const response = await fetch(`${this.center}${path}`, {
      method,
      headers: { "content-type": "application/json", "TraceId": crypto.randomUUID() },
      body: body === undefined ? undefined : printExact(body),
    });
    const text = await response.text();
    if (response.status !== 200) throw new Error(`${method} ${path}: ${response.status} ${text}`);
    return (parseExact(text) as { data: unknown }).data;
  }

  /** Hashes of a chat's beginnings; the last one is of the whole. */
  hashes(messages: readonly unknown[]): bigint[] {
    return prefixHashes(new TextEncoder().encode(goPromptText(messages)!), CHUNK_BYTES);
  }

  /** Chunks of a chat that engines hold, by address: a later row takes the place of an earlier one. */
  async cached(messages: readonly unknown[]): Promise<Map<string, number>> {
    const data = await this.#call("POST", "/v1/cache/query", {
      cluster: this.cluster,
      prompt_hash: this.hashes(messages),
      topk: 10,
    }).catch(() => ({ locations: [] })) as { locations: { ip: string; length: number }[] };
    return new Map(data.locations.map(({ ip, length }) => [ip, length]));
  }

  async save(messages: readonly unknown[], ip: string): Promise<void> {
    await this.#call("POST", "/v1/cache/save", {
      cluster: this.cluster,
      ip,
      prompt_hash: this.hashes(messages),
    });
  }

  async load(): Promise<Map<string, GoView>> {
    const query = new URLSearchParams({ cluster: this.cluster });
    const rows = (await this.#call("GET", `/v1/load/stats?${query}`) ?? []) as {
      ip: string;
      queued_req_num: number;
      prompt_length: number;
    }[];
    return new Map(rows.map((row) => [row.ip, { requests: row.queued_req_num, promptBytes: row.prompt_length }]));
  }

  async begin(requestId: string, ip: string, promptLength: number): Promise<void> {
    const timestamp = BigInt(Date.now()) * 1_000_000n;
    const body = { request_id: requestId, cluster: this.cluster, prompt_length: promptLength, ip, timestamp };
    await this.#call("POST", "/v1/load/stats", body);
  }

  /**
   * Chooses as Go's inference_lb does of few engines: of the best scores the first, by what the center says of each
   * address.
   */
  async choose(messages: readonly unknown[], ips: readonly string[]): Promise<string> {
    const [loads, cached, chunks] = [await this.load(), await this.cached(messages), this.hashes(messages).length];
    const requests = ips.map((ip) => loads.get(ip)?.requests ?? 0);
    const prompts = ips.map((ip) => loads.get(ip)?.promptBytes ?? 0);
    const [least, delta] = [Math.min(...requests), Math.max(2, Math.max(...requests) - Math.min(...requests))];
    const longest = Math.max(1_024, ...prompts);
    const scores = ips.map((ip, i) =>
      2 * (cached.get(ip) ?? 0) / Math.max(1, chunks) - Math.ceil(delta / 5) * (requests[i] - least) / delta -
      3 * prompts[i] / longest
    );
    return ips[scores.indexOf(Math.max(...scores))];
  }

  /** Its first token came. */
  async firstToken(requestId: string): Promise<void> {
    await this.#call("DELETE", "/v1/load/prompt", { request_id: requestId, cluster: "", ip: "" });
  }

  async end(requestId: string): Promise<void> {
    await this.firstToken(requestId);
    await this.#call("DELETE", "/v1/load/stats", { request_id: requestId, cluster: "", ip: "" });
  }
}
