// SPDX-License-Identifier: Apache-2.0
// Listens to what the engines of the fleet tell of their caches, and says of each whether all is known that it holds. That
// takes the tokenizer of a model that they serve; of others, whose cluster says where they publish, it is heard when they
// begin anew or clear their caches.

import type { AttachedKernel } from "../../wasm/kernel.ts";
import { formatAddress, parseAddress } from "../base/address.ts";
import { EventPort } from "../cache_events/port.ts";
import type { Config } from "../config/schema.ts";
import { BlockIndex } from "../tables/block_index.ts";
import type { PromptTokens } from "../tokens/prompt_tokens.ts";
import { type EngineCacheView, EngineListener, type EngineListenerParts } from "./engine_listener.ts";
import type { Member } from "./member.ts";
import { configureTokens } from "./tokens.ts";

const RECONCILE_MS = 500;
/** Kinds of engines that say where they publish. */
const TELLING: ReadonlySet<string> = new Set(["vllm", "sglang"]);

export interface EngineCachesParts extends Omit<EngineListenerParts, "taken" | "usualBlock"> {
  readonly kernel: AttachedKernel;
  members(): readonly Readonly<Member>[];
}

export class EngineCaches {
  readonly index: BlockIndex;
  readonly #parts: EngineCachesParts;
  readonly #listeners = new Map<number, EngineListener>();
  /** Tokens a block, by cluster. */
  readonly #usualBlocks = new Map<string, number>();
  /** How many endpoints are listened to at an address. */
  readonly #publishers = new Map<string, number>();
  #lostTold = 0;
  #cancel: () => void = () => {};
  #port: EventPort | undefined;
  #listens: string | undefined;
  /** An address that could not be opened. */
  #refused: string | undefined;

  constructor(parts: EngineCachesParts) {
    this.#parts = parts;
    this.index = new BlockIndex(parts.kernel);
  }

  /** Tokenises as workers do. */
  get tokens(): PromptTokens {
    return this.#parts.tokens;
  }

  start(): void {
    const again = (): void => {
      this.#reconcile();
      this.#cancel = this.#parts.clock.after(RECONCILE_MS, again);
    };
    again();
  }

  async stop(): Promise<void> {
    this.#cancel();
    this.#parts.tokens.close();
    await this.#port?.close();
    await Promise.all(Array.from(this.#listeners.values(), (listener) => listener.stop()));
  }

  /** undefined for one that is not listened to. */
  of(row: number): EngineCacheView | undefined {
    return this.#listeners.get(row)?.view();
  }

  #reconcile(): void {
    const config = this.#parts.config();
    configureTokens(this.#parts.tokens, config);
    this.#listen(config);
    const wanted = new Map(this.#wanted(config).map((member) => [member.row, member]));
    for (const [row, listener] of this.#listeners) {
      if (wanted.get(row) === listener.member && listener.fits(config)) continue;
      this.#listeners.delete(row);
      listener.stop();
    }
    for (const [row, member] of wanted) {
      if (this.#listeners.has(row)) continue;
      const listener = new EngineListener(member, this.index, {
        ...this.#parts,
        usualBlock: (cluster) => this.#usualBlocks.get(cluster) ?? 0,
        taken: (address) => (this.#publishers.get(formatAddress(address)) ?? 0) > 1,
      }, config);
      this.#listeners.set(row, listener);
      listener.start();
    }
    this.#survey();
    this.#warnOfLost();
    for (const listener of this.#listeners.values()) listener.judge();
  }

  #warnOfLost(): void {
    const { lost } = this.index;
    if (lost <= this.#lostTold) return;
    // Said again when it has become ten times as bad.
    if (lost >= 10 * this.#lostTold) {
      this.#lostTold = lost;
      this.#parts.log.warn("engines hold more different blocks than limits.kv_blocks has a place for", {
        blocks: lost,
      });
    }
  }

  // What listeners are told of each other.
  #survey(): void {
    this.#usualBlocks.clear();
    this.#publishers.clear();
    for (const { member: { cluster }, blockTokens, address } of this.#listeners.values()) {
      if (blockTokens > 0) this.#usualBlocks.set(cluster, blockTokens);
      if (address === undefined) continue;
      const name = formatAddress(address);
      this.#publishers.set(name, (this.#publishers.get(name) ?? 0) + 1);
    }
  }

  // Opens the port where engines connect to, or another one.
  #listen({ kv_events: { listen, message_bytes, connect_ms }, limits }: Config): void {
    if (listen === this.#listens) return;
    this.#port?.close();
    this.#port = undefined;
    this.#listens = undefined;
    if (listen === undefined) return;
    const { clock, log } = this.#parts;
    try {
      this.#port = new EventPort(parseAddress(listen)!, clock, {
        messageBytes: message_bytes,
        connectMs: connect_ms,
        connections: limits.endpoints,
        adopt: (name, connection, first) => {
          const listeners = [...this.#listeners.values()].filter(({ member }) => member.name === name);
          return listeners.length === 0 ? undefined : listeners[0].adopt(connection, first);
        },
        refused: (error) => log.warn("an engine's cache events are of no use", { error: error.message }),
      });
      this.#listens = listen;
    } catch (error) {
      if (this.#refused === listen) return; // said already; it is tried again
      this.#refused = listen;
      log.error("kv_events.listen cannot be opened", { listen, error: (error as Error).message });
    }
  }

  // Engines that may tell: of clusters that say where, and, where there is a tokenizer, of kinds that say it themselves.
  #wanted({ kv_events, probes, tokenizers, model_mapping_rule, clusters }: Config): Readonly<Member>[] {
    if (!kv_events.enabled) return [];
    const telling = new Set<string>();
    for (const model of Object.keys(tokenizers)) {
      for (const { cluster, backend } of model_mapping_rule[model]?.rules ?? []) {
        // Who is not to be probed is not asked where it publishes.
        if (probes.enabled && TELLING.has(backend)) telling.add(cluster);
      }
    }
    for (const cluster of clusters) {
      if (typeof cluster.kv_events === "object") telling.add(cluster.name);
      if (cluster.kv_events === false) telling.delete(cluster.name);
    }
    return this.#parts.members().filter(({ cluster, leftAt }) => telling.has(cluster) && leftAt === undefined);
  }
}
