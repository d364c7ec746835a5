// SPDX-License-Identifier: Apache-2.0
// Listens to what one engine tells of its cache, wherever it says that it publishes, or over a connection that it makes, and
// says whether all is known that it holds.

import type { Address } from "../base/address.ts";
import { pause } from "../base/pause.ts";
import type { Clock } from "../base/clock.ts";
import { EngineBlocks, fitsKeys } from "../cache_events/engine_blocks.ts";
import type { CacheEvent, EventBatch } from "../cache_events/events.ts";
import { locate } from "../cache_events/locate.ts";
import { EventSource, type SourceAddress, type SourceLimits } from "../cache_events/source.ts";
import { zmqAddress } from "../config/kv_events.ts";
import type { Config } from "../config/schema.ts";
import type { BlockIndex } from "../tables/block_index.ts";
import type { Log } from "../telemetry/log.ts";
import type { PromptTokens } from "../tokens/prompt_tokens.ts";
import type { Message, ZmtpConnection } from "../zmtp/connection.ts";
import type { Member } from "./member.ts";
import { checkTokens, modelsOf } from "./token_check.ts";

/** How long tokenizers are waited for at a time. */
const TOKENIZER_MS = 250;
const PAGE_MS = 2_000;
/** Tokens a block of an engine that has stored none yet. */
const UNKNOWN_BLOCK = 16;
/** What the engine's clock may go apart from this one's between two batches. */
const CLOCK_DRIFT_MS = 0.05;
/** Most times `look_ms` between two questions to an engine that says nothing. */
const LONGEST_LOOKS = 32;
/** How much of a new lag is taken into the mean. */
const LAG_PACE = 0.05;

/** What is known of an engine's caches. */
export interface EngineCacheView {
  /** Whether all is known that it holds; else it is presumed to hold what it was sent. */
  readonly exact: boolean;
  /** Why it is not. */
  readonly why: string;
  /** Blocks that it holds, as far as is known. */
  readonly blocks: number;
  readonly blockTokens: number;
  readonly batches: number;
  /** Batches that were lost. */
  readonly lost: number;
  /** How much later than the quickest its events come, ms. */
  readonly lagMs: number;
}

export interface EngineListenerParts {
  readonly clock: Clock;
  readonly log: Log;
  config(): Config;
  /** Tokenizes as workers do. */
  readonly tokens: PromptTokens;
  /** An engine's cache is empty: what was presumed does not hold any more. */
  emptied(row: number): void;
  /** Whether another endpoint is listened to at the same address. */
  taken(address: Address): boolean;
  /** Tokens a block of the other engines of a cluster; 0 while none has told. */
  usualBlock(cluster: string): number;
}

export class EngineListener {
  readonly #blocks: EngineBlocks;
  readonly #stop = new AbortController();
  readonly #settings: string;
  /** Whether there is a tokenizer to find its blocks by. */
  readonly #indexed: boolean;
  #source: EventSource | undefined;
  #why = "it has not said where it publishes";
  #complete = false;
  #failed = false;
  #batches = 0;
  #lost = 0;
  #lagMs = 0;
  #quickestMs = Infinity;
  /** Blocks that had been taken in when something was lost. */
  #addedBefore = 0;
  /** How its tokens differ from those here. */
  #otherTokens: string | undefined;
  #exact = 0;
  /** The last connection that it has made. */
  #connection: ZmtpConnection | undefined;
  /** Connections that it has made. */
  #adopted = 0;
  #running: Promise<void> | undefined;

  constructor(
    readonly member: Readonly<Member>,
    readonly index: BlockIndex,
    readonly parts: EngineListenerParts,
    config: Config,
  ) {
    this.#blocks = new EngineBlocks(index, member.row, member.clusterRow);
    this.#settings = settingsOf(config, member.cluster);
    this.#indexed = modelsOf(config, member.cluster).length > 0;
  }

  /** Whether it listens as this configuration says. */
  fits(config: Config): boolean {
    return settingsOf(config, this.member.cluster) === this.#settings;
  }

  start(): void {
    this.#running = this.#run();
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    this.#blocks.forget();
    this.#say(0);
    await this.#running;
  }

  /** Tokens a block of it; 0 until it has told. */
  get blockTokens(): number {
    return this.#blocks.blockTokens;
  }

  /** Where its events are listened to. */
  get address(): Address | undefined {
    return this.#source?.address?.events;
  }

  view(): EngineCacheView {
    return {
      exact: this.#exact > 0,
      why: this.#exact > 0 ? "" : this.#why,
      blocks: this.#blocks.size,
      blockTokens: this.#blocks.blockTokens,
      batches: this.#batches,
      lost: this.#lost,
      lagMs: this.#lagMs,
    };
  }

  /** Says whether all is known that the engine holds. */
  judge(): void {
    // One that has stored nothing yet will store such as the others.
    const blockTokens = this.#blocks.blockTokens || this.parts.usualBlock(this.member.cluster) || UNKNOWN_BLOCK;
    this.#why = this.#doubt(blockTokens);
    this.#say(this.#why === "" && !this.#stop.signal.aborted ? blockTokens : 0);
  }

  // Why not all is known; empty when it is.
  #doubt(blockTokens: number): string {
    const source = this.#source;
    if (source === undefined) return this.#why;
    if (!this.#indexed) return "there is no tokenizer of a model of its cluster";
    if (!source.connected) return "there is no connection to its events";
    if (!fitsKeys(blockTokens)) return `its blocks of ${blockTokens} tokens are neither part nor multiple of 16`;
    if (this.#lagMs > this.parts.config().kv_events.max_lag_ms) return "its events come late";
    if (this.address !== undefined && this.parts.taken(this.address)) {
      return "another endpoint publishes at the same address";
    }
    if (this.#otherTokens !== undefined) return this.#otherTokens;
    return this.#complete || this.#renewed ? "" : "it held blocks before it was listened to";
  }

  // As many blocks were taken in since something was lost as it has, each behind one that is known: all that it had before is
  // gone or known.
  get #renewed(): boolean {
    const capacity = this.member.kvTokens;
    return capacity !== undefined && (this.#blocks.added - this.#addedBefore) * this.#blocks.blockTokens >= capacity;
  }

  #say(blockTokens: number): void {
    if (blockTokens === this.#exact) return;
    if (blockTokens === 0 || this.#exact === 0) {
      const { name, cluster } = this.member;
      const text = blockTokens === 0 ? "what an engine holds is presumed" : "an engine tells all that it holds";
      this.parts.log.info(text, { endpoint: name, cluster, ...(blockTokens === 0 ? { why: this.#why } : {}) });
    }
    this.#exact = blockTokens;
    this.index.setBlockTokens(this.member.row, blockTokens);
  }

  // Finds the engine's source and listens to it, until it fails: a restarted one may publish elsewhere.
  async #run(): Promise<void> {
    const { clock } = this.parts;
    const { signal } = this.#stop;
    let looks = 1;
    while (!signal.aborted) {
      const { look_ms, retry_ms } = this.parts.config().kv_events;
      const address = this.#adopted > 0 ? undefined : await this.#locate();
      if (signal.aborted) return;
      if (address === undefined) {
        await pause(looks * look_ms, clock, signal);
        looks = Math.min(LONGEST_LOOKS, 2 * looks);
        continue;
      }
      looks = 1;
      if (!await this.#checkTokens()) {
        await pause(retry_ms, clock, signal);
        continue;
      }
      await this.#listen(address, this.#limits);
      await pause(retry_ms, clock, signal);
    }
  }

  async #listen(address: SourceAddress, limits: SourceLimits): Promise<void> {
    const { signal } = this.#stop;
    if (JSON.stringify(address) !== JSON.stringify(this.#source?.address)) this.#begin(address, limits);
    try {
      await this.#source!.listen(signal);
    } catch (error) {
      if (signal.aborted) return;
      if (!this.#failed) {
        const { name } = this.member;
        this.parts.log.warn("an engine's cache events cannot be had", {
          endpoint: name,
          error: (error as Error).message,
        });
      }
      this.#failed = true;
      this.judge();
    }
  }

  #begin(address: SourceAddress | undefined, limits: SourceLimits): EventSource {
    this.#blocks.forget();
    this.#complete = false;
    return this.#source = new EventSource(address, limits, {
      batch: (batch) => this.#take(batch),
      reset: (mayBeAnother) => {
        this.#blocks.forget();
        if (mayBeAnother) this.parts.emptied(this.member.row);
      },
      complete: (known) => {
        this.#complete = known;
        this.#addedBefore = this.#blocks.added;
      },
      gap: (missed) => this.#lost += missed,
    });
  }

  /** Listens to the engine over a connection that it has made, until that ends. */
  async adopt(connection: ZmtpConnection, first: Message): Promise<void> {
    const { signal } = this.#stop;
    const { clock } = this.parts;
    const close = () => connection.close();
    signal.addEventListener("abort", close);
    this.#connection?.close(); // it has connected anew
    this.#connection = connection;
    this.#adopted++;
    try {
      while (!signal.aborted && !await this.#checkTokens()) await pause(TOKENIZER_MS, clock, signal);
      if (this.#connection !== connection) return;
      await this.#begin(undefined, this.#limits).adopt(connection, first, signal);
    } finally {
      this.#adopted--;
      signal.removeEventListener("abort", close);
      this.judge();
    }
  }

  get #limits(): SourceLimits {
    const { message_bytes, connect_ms, replay_ms } = this.parts.config().kv_events;
    return { messageBytes: message_bytes, connectMs: connect_ms, replayMs: replay_ms };
  }

  #take({ atMs, events }: EventBatch): void {
    if (this.#stop.signal.aborted) return; // what it held is forgotten
    this.#failed = false;
    this.#batches++;
    const lag = this.parts.clock.wall() - atMs;
    this.#quickestMs = Math.min(this.#quickestMs + CLOCK_DRIFT_MS, lag);
    this.#lagMs += LAG_PACE * (lag - this.#quickestMs - this.#lagMs);
    for (const event of events) {
      if (event.kind === "cleared") {
        this.#source!.cleared();
        this.parts.emptied(this.member.row);
      }
      if (this.#indexed) this.#apply(event);
    }
    if (this.#exact !== this.#blocks.blockTokens) this.judge();
  }

  #apply(event: CacheEvent): void {
    const { orphans, resized } = this.#blocks;
    this.#blocks.apply(event);
    // Something that is not known is before what it tells.
    if (this.#blocks.orphans > orphans) this.#addedBefore = this.#blocks.added;
    if (this.#blocks.resized > resized) this.#source!.incomplete();
  }

  // Whether it is known if its tokens are those here.
  async #checkTokens(): Promise<boolean> {
    const { config, tokens, log } = this.parts;
    try {
      const verdict = await checkTokens(config(), tokens, this.member);
      const before = this.#otherTokens;
      this.#otherTokens = verdict.kind === "different" ? verdict.why : undefined;
      if (this.#otherTokens !== undefined && before === undefined) {
        log.warn("what an engine tells of its cache is of no use", {
          endpoint: this.member.name,
          why: this.#otherTokens,
        });
      }
      if (verdict.kind === "not yet") this.#why = "its model's tokenizer is not loaded";
      return verdict.kind !== "not yet";
    } catch (error) {
      this.#why = `its tokens cannot be asked for: ${(error as Error).message}`;
      return false;
    }
  }

  async #locate(): Promise<SourceAddress | undefined> {
    const { cluster, spec: { host, port, rank }, reader } = this.member;
    const config = this.parts.config().clusters.find(({ name }) => name === cluster);
    const own = config?.kv_events;
    if (typeof own === "object") {
      const { endpoint, replay_endpoint, topic } = own;
      // Each rank is behind the one before it.
      const of = (one: string) => ofRank(zmqAddress(one, host)!, rank);
      return {
        events: of(endpoint),
        replay: replay_endpoint === undefined ? undefined : of(replay_endpoint),
        topic,
      };
    }
    try {
      const sources = await locate(async (path) => {
        const { status, text } = await reader.get(port, path, PAGE_MS);
        return status === 200 ? text : undefined;
      }, host);
      if (sources.size > 1 && (config?.data_parallel_ranks ?? 1) === 1) {
        this.#why = `it has ${sources.size} ranks behind one address, which data_parallel_ranks of its cluster says`;
        return undefined;
      }
      this.#why = "it does not say where it publishes";
      return sources.get(rank);
    } catch (error) {
      this.#why = `it cannot be asked where it publishes: ${(error as Error).message}`;
      return undefined;
    }
  }
}

function ofRank({ hostname, port }: Address, rank: number): Address {
  return { hostname, port: port + rank };
}

function settingsOf(config: Config, cluster: string): string {
  const { clusters, kv_events, tokenizers } = config;
  const own = clusters.find(({ name }) => name === cluster)?.kv_events;
  return JSON.stringify([kv_events, own, modelsOf(config, cluster).map((model) => [model, tokenizers[model]])]);
}
