// SPDX-License-Identifier: Apache-2.0
// What the mock engine tells of its cache, as vLLM does: events by ZeroMQ and where they are to be had. Its tokens are those
// of a real tokenizer, so that a gateway with the same files finds its blocks.

import { encode } from "@msgpack/msgpack";
import { PromptTokenizer, type TokenizerFiles } from "../tokens/prompt_tokenizer.ts";
import { SegmentCache } from "../tokens/segment_cache.ts";
import { Publisher } from "../zmtp/publisher.ts";
import type { BlockKey, CacheListener } from "./kv_cache.ts";

const KEPT_BATCHES = 10_000;
const CACHE_BYTES = 8_388_608;

export interface KvEventOptions {
  readonly hostname: string;
  readonly files: TokenizerFiles;
  readonly blockTokens: number;
  /** Which of the batches nobody gets, but who asks for them. */
  readonly lose?: (sequence: number) => boolean;
  /** It does not say where it publishes. */
  readonly untold?: boolean;
  /** Ms after which they are sent. */
  readonly lagMs?: number;
}

export class KvPublisher implements CacheListener, AsyncDisposable {
  readonly #publisher: Publisher;
  readonly #tokenizer: PromptTokenizer;
  readonly #tokens = new WeakMap<readonly BlockKey[], Uint32Array>();
  readonly #late = new Set<ReturnType<typeof setTimeout>>();

  constructor(readonly options: KvEventOptions) {
    const { hostname, files } = options;
    this.#tokenizer = new PromptTokenizer(files, new SegmentCache(CACHE_BYTES));
    this.#publisher = new Publisher({ hostname, port: 0, topic: "kv@mock", kept: KEPT_BATCHES });
  }

  /** Tokens and block keys of a request; undefined where its prompt is not text alone. */
  prompt(body: Record<string, unknown>): { tokens: number; blocks: BlockKey[] } | undefined {
    const tokens = this.#tokenizer.tokensOf(body);
    if (tokens === undefined) return undefined;
    const { blockTokens } = this.options;
    const blocks: BlockKey[] = [];
    let a = 0x811c9dc5;
    let b = 0x01000193;
    for (let i = 0; i < tokens.length; i++) {
      a = Math.imul(a ^ tokens[i], 0x01000193);
      b = Math.imul(b ^ tokens[i], 0x85ebca6b) + i | 0;
      if ((i + 1) % blockTokens === 0) blocks.push((a >>> 0) * 0x200000 + ((b >>> 0) & 0x1fffff));
    }
    this.#tokens.set(blocks, tokens);
    return { tokens: tokens.length, blocks };
  }

  /** undefined where its prompt is not text alone. */
  tokensOf(body: Record<string, unknown>): Uint32Array | undefined {
    return this.#tokenizer.tokensOf(body);
  }

  stored(keys: readonly BlockKey[], from: number, to: number): void {
    const tokens = this.#tokens.get(keys);
    if (tokens === undefined) return; // of a prompt that is not text alone
    const { blockTokens } = this.options;
    this.#publish({
      type: "BlockStored",
      block_hashes: keys.slice(from, to).map((key) => BigInt(key)),
      parent_block_hash: from === 0 ? null : BigInt(keys[from - 1]),
      token_ids: [...tokens.subarray(from * blockTokens, to * blockTokens)],
      block_size: blockTokens,
      medium: "GPU",
      group_idx: 0,
      kv_cache_spec_kind: "full_attention",
    });
  }

  removed(keys: readonly BlockKey[]): void {
    this.#publish({ type: "BlockRemoved", block_hashes: keys.map((key) => BigInt(key)), medium: "GPU", group_idx: 0 });
  }

  cleared(): void {
    this.#publish({ type: "AllBlocksCleared" });
  }

  /** Batches that it has published. */
  get batches(): number {
    return this.#publisher.sequence;
  }

  /** The page /kv_event_sources. */
  page(): Record<string, unknown> {
    const { hostname } = this.options;
    return {
      "0": {
        enable_kv_cache_events: true,
        publisher: "zmq",
        endpoint: `tcp://${hostname}:${this.#publisher.port}`,
        replay_endpoint: `tcp://${hostname}:${this.#publisher.replayPort}`,
        buffer_steps: KEPT_BATCHES,
        topic: "kv@mock",
      },
    };
  }

  #publish(event: Record<string, unknown>): void {
    const payload = encode([Date.now() / 1_000, [event], 0], { useBigInt64: true });
    const send = () => this.#publisher.publish(payload, this.options.lose?.(this.#publisher.sequence));
    if (!this.options.lagMs) return send();
    const timer = setTimeout(() => {
      this.#late.delete(timer);
      send();
    }, this.options.lagMs);
    this.#late.add(timer);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const timer of this.#late) clearTimeout(timer);
    await this.#publisher[Symbol.asyncDispose]();
  }
}
