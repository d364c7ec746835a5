// SPDX-License-Identifier: Apache-2.0
// Engines' caches as a plain model, and what the block index says of them after their events.

import { assertEquals } from "@std/assert";
import { KEY_TOKENS, keysOfTokens, rootKey } from "../../src/base/block_keys.ts";
import { EngineBlocks } from "../../src/cache_events/engine_blocks.ts";
import { BlockIndex } from "../../src/tables/block_index.ts";
import { EndpointTable } from "../../src/tables/endpoint_table.ts";
import type { AttachedKernel } from "../../wasm/kernel.ts";
import { decisionWord, freshKernel, readMatches } from "../support/kernel.ts";
import type { Random } from "../support/seed.ts";

export const CLUSTER = 0;

/** Tokens of a prompt that each endpoint is said to hold, all of its bytes being tokens. */
export function heldTokens(
  kernel: AttachedKernel,
  tokens: ArrayLike<number>,
  lora = "",
  salt = "",
) {
  const k = kernel.exports;
  const keys = keysOfTokens(tokens, rootKey(CLUSTER, lora), salt);
  const words = new Uint32Array(kernel.buffer);
  words.set(keys, k.blockKeysOffset() >>> 2);
  const question = k.decisionOffset() >>> 2;
  k.lookUpNothing();
  words[question + (k.QUESTION_CLUSTER >>> 2)] = CLUSTER;
  words[question + (k.QUESTION_BLOCKS >>> 2)] = keys.length / 2;
  words[question + (k.QUESTION_TOKENS >>> 2)] = tokens.length;
  words[question + (k.QUESTION_PROMPT_BYTES >>> 2)] = tokens.length;
  k.lookUpAgain(0, 0);
  const exact = (bytes: number) => bytes & (k.EXACT - 1);
  const matches = new Map(
    [...readMatches(kernel)].map(([row, bytes]) => [row, exact(bytes)]),
  );
  return {
    of: (row: number) => matches.get(row) ?? exact(decisionWord(kernel, k.QUESTION_EVERYWHERE)),
    matches,
  };
}

/** An engine's cache: blocks by hashes of its own making, the one released longest ago given up first, ends of prompts before beginnings. */
class ModelCache {
  readonly #blocks = new Map<string, bigint>();
  readonly events: unknown[] = [];
  #next = 1n;
  constructor(readonly blockTokens: number, readonly capacity: number) {}

  held(tokens: readonly number[], lora: string): number {
    let n = 0;
    while (
      (n + 1) * this.blockTokens <= tokens.length &&
      this.#blocks.has(this.#name(tokens, n, lora))
    ) n++;
    return n * this.blockTokens;
  }

  #name(tokens: readonly number[], i: number, lora: string): string {
    return `${lora}:${tokens.slice(0, (i + 1) * this.blockTokens)}`;
  }

  run(
    tokens: readonly number[],
    lora: string,
    apply: (event: Parameters<EngineBlocks["apply"]>[0]) => void,
  ): void {
    const count = Math.floor(tokens.length / this.blockTokens);
    const first = this.held(tokens, lora) / this.blockTokens;
    const names = Array.from(
      { length: count },
      (_, i) => this.#name(tokens, i, lora),
    );
    const own = new Set(names);
    const over = this.#blocks.size + count - first - this.capacity;
    if (over > 0) {
      const gone: bigint[] = [];
      for (const [name, hash] of this.#blocks) {
        if (gone.length === over || own.has(name)) continue;
        this.#blocks.delete(name);
        gone.push(hash);
      }
      apply({ kind: "removed", hashes: gone, group: 0 });
    }
    if (first < count) {
      const hashes = names.slice(first).map(() => (this.#next++ * 0x9e3779b97f4a7c15n) & 0xffff_ffff_ffff_ffffn);
      apply({
        kind: "stored",
        hashes,
        parent: first === 0 ? undefined : this.#blocks.get(names[first - 1])!,
        tokens: tokens.slice(
          first * this.blockTokens,
          count * this.blockTokens,
        ),
        blockTokens: this.blockTokens,
        lora,
        extras: undefined,
        group: 0,
        prefix: true,
      });
      names.slice(first).forEach((name, i) => this.#blocks.set(name, hashes[i]));
    }
    // Tail first, so that it is given up first.
    for (const name of names.toReversed()) {
      const hash = this.#blocks.get(name)!;
      this.#blocks.delete(name);
      this.#blocks.set(name, hash);
    }
  }

  clear(): void {
    this.#blocks.clear();
  }
}

interface ModelRun {
  readonly blockTokens: number;
  readonly steps: number;
  /** Blocks that the index has a place for: enough for all. */
  readonly blocks: number;
}

/**
 * Random conversations on five engines, each step followed by a look at one of them: what the index says is what the engines
 * hold, to the block, and nothing is left when all is forgotten. Returns the number of events.
 */
export function runModel(random: Random, { blockTokens, steps, blocks }: ModelRun): number {
  const kernel = freshKernel({ blocks, prefixes: 64, requestsPerWorker: 2 });
  const table = new EndpointTable(kernel);
  const index = new BlockIndex(kernel);
  let events = 0;
  const engines = Array.from({ length: 5 }, (_, i) => {
    const row = table.add(CLUSTER, { hostname: "e", port: i + 1 }, 100, 0);
    index.setBlockTokens(row, blockTokens);
    const held = new EngineBlocks(index, row, CLUSTER);
    return { row, held, cache: new ModelCache(blockTokens, 40 + random.below(200)) };
  });
  const conversations: { lora: string; tokens: number[] }[] = [];
  for (let step = 0; step < steps; step++) {
    const engine = random.pick(engines);
    const apply = (event: Parameters<EngineBlocks["apply"]>[0]) => {
      events++;
      engine.held.apply(event);
    };
    if (random.chance(0.01)) {
      engine.cache.clear();
      apply({ kind: "cleared" });
    }
    let one = random.pick(conversations);
    if (one === undefined || random.chance(0.2)) {
      const lora = random.pick(["", "a"]);
      const shared = conversations.find((other) => other.lora === lora);
      one = { lora, tokens: shared && random.chance(0.5) ? shared.tokens.slice(0, 70) : [] };
      conversations.push(one);
    }
    for (let i = random.below(100); i > 0; i--) one.tokens.push(random.below(100_000));
    if (one.tokens.length > 900) one.tokens.length = 900;
    engine.cache.run(one.tokens, one.lora, apply);
    const asked = random.pick(conversations);
    const tokens = [...asked.tokens.slice(0, random.below(asked.tokens.length + 1)), 1, 2, 3];
    const said = heldTokens(kernel, tokens, asked.lora);
    for (const { row, cache } of engines) {
      // Parts of a key are not seen.
      const keys = Math.floor(cache.held(tokens, asked.lora) / KEY_TOKENS) * KEY_TOKENS;
      const real = Math.floor(Math.min(keys, tokens.length - 1) / blockTokens) * blockTokens;
      assertEquals(said.of(row), real, `${blockTokens} tokens a block, step ${step}`);
    }
  }
  for (const { held } of engines) {
    held.forget();
    assertEquals(held.size, 0);
  }
  const keys = new Uint32Array(kernel.buffer, kernel.exports.blockIndexOffset(0), 2 * blocks);
  assertEquals([keys.every((word) => word === 0), index.lost], [true, 0], "nothing is left");
  return events;
}
