// SPDX-License-Identifier: Apache-2.0
// What the index says against a model of the engine's own cache.

import { assertEquals } from "@std/assert";
import { KEY_TOKENS, keysOfTokens, rootKey } from "../../src/base/block_keys.ts";
import { EngineBlocks } from "../../src/cache_events/engine_blocks.ts";
import { decodeBatch } from "../../src/cache_events/events.ts";
import { BlockIndex } from "../../src/tables/block_index.ts";
import { EndpointTable } from "../../src/tables/endpoint_table.ts";
import type { AttachedKernel } from "../../wasm/kernel.ts";
import { decisionWord, freshKernel, readMatches } from "../support/kernel.ts";
import { Random, seed } from "../support/seed.ts";
import { captured } from "./captured.ts";

const CLUSTER = 0;

/** Tokens of a prompt that each endpoint is said to hold, all of its bytes being tokens. */
function heldTokens(
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
  constructor(
    readonly blockTokens: number,
    readonly capacity: number,
    readonly random: Random,
  ) {}

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

Deno.test("the index says of random conversations what engines of every block size hold, to the block", () => {
  const random = new Random(seed);
  for (const blockTokens of [1, 4, 16, 32, 64]) {
    const kernel = freshKernel({ blocks: 65_536 });
    const table = new EndpointTable(kernel);
    const index = new BlockIndex(kernel);
    const engines = Array.from({ length: 5 }, (_, i) => {
      const row = table.add(CLUSTER, { hostname: "e", port: i + 1 }, 100, 0);
      index.setBlockTokens(row, blockTokens);
      const blocks = new EngineBlocks(index, row, CLUSTER);
      return {
        row,
        blocks,
        cache: new ModelCache(blockTokens, 40 + random.below(200), random),
      };
    });
    const conversations: { lora: string; tokens: number[] }[] = [];
    for (let step = 0; step < 300; step++) {
      const engine = random.pick(engines);
      if (random.chance(0.01)) {
        engine.cache.clear();
        engine.blocks.apply({ kind: "cleared" });
      }
      let one = random.pick(conversations);
      if (one === undefined || random.chance(0.2)) {
        const lora = random.pick(["", "a"]);
        const shared = conversations.find((other) => other.lora === lora);
        one = {
          lora,
          tokens: shared && random.chance(0.5) ? shared.tokens.slice(0, 70) : [],
        };
        conversations.push(one);
      }
      for (let i = random.below(100); i > 0; i--) {
        one.tokens.push(random.below(100_000));
      }
      if (one.tokens.length > 900) one.tokens.length = 900;
      engine.cache.run(
        one.tokens,
        one.lora,
        (event) => engine.blocks.apply(event),
      );
      const asked = random.pick(conversations);
      const tokens = [
        ...asked.tokens.slice(0, random.below(asked.tokens.length + 1)),
        1,
        2,
        3,
      ];
      const said = heldTokens(kernel, tokens, asked.lora);
      for (const { row, cache } of engines) {
        // Parts of a key are not seen.
        const keys = Math.floor(cache.held(tokens, asked.lora) / KEY_TOKENS) *
          KEY_TOKENS;
        const real = Math.floor(Math.min(keys, tokens.length - 1) / blockTokens) *
          blockTokens;
        assertEquals(
          said.of(row),
          real,
          `${blockTokens} tokens a block, step ${step}`,
        );
      }
    }
    for (const { blocks } of engines) {
      blocks.forget();
      assertEquals(blocks.size, 0);
    }
    const keys = new Uint32Array(
      kernel.buffer,
      kernel.exports.blockIndexOffset(0),
      2 * 65_536,
    );
    assertEquals(
      [keys.every((word) => word === 0), index.lost],
      [true, 0],
      "nothing is left",
    );
  }
});

Deno.test("shared by more endpoints than have a place; held by all; lost for want of room and taken away again", () => {
  const kernel = freshKernel({ blocks: 65_536 });
  const table = new EndpointTable(kernel);
  const index = new BlockIndex(kernel);
  const engines = Array.from({ length: 20 }, (_, i) => {
    const row = table.add(CLUSTER, { hostname: "e", port: i + 1 }, 100, 0);
    index.setBlockTokens(row, 16);
    return new EngineBlocks(index, row, CLUSTER);
  });
  const tokens = Array.from({ length: 200 }, (_, i) => i);
  const store = (engine: EngineBlocks, count: number) =>
    engine.apply({
      kind: "stored",
      hashes: Array.from({ length: count }, (_, i) => BigInt(i + 1)),
      parent: undefined,
      tokens: tokens.slice(0, 16 * count),
      blockTokens: 16,
      lora: "",
      extras: undefined,
      group: 0,
      prefix: true,
    });
  for (const engine of engines.slice(0, 12)) store(engine, 4);
  assertEquals(heldTokens(kernel, tokens).matches.size, 7);
  store(engines[11], 10); // twice the beginning: two references
  assertEquals(
    heldTokens(kernel, tokens).of(engines[11].row),
    160,
    "who holds more than all is among them",
  );
  engines[11].apply({ kind: "removed", hashes: [1n, 2n, 3n, 4n], group: 0 });
  assertEquals(heldTokens(kernel, tokens).of(engines[11].row), 160);
  engines[11].apply({ kind: "removed", hashes: [5n], group: 1 });
  assertEquals(
    heldTokens(kernel, tokens).of(engines[11].row),
    160,
    "of another cache of the model",
  );
  engines[11].apply({ kind: "removed", hashes: [10n, 9n, 99n], group: 0 });
  assertEquals(heldTokens(kernel, tokens).of(engines[11].row), 128);
  const before = heldTokens(kernel, tokens).matches;
  engines[19].apply({
    kind: "stored",
    hashes: [7n],
    parent: 6n,
    tokens: tokens.slice(0, 16),
    blockTokens: 16,
    lora: "",
    extras: undefined,
    group: 0,
    prefix: true,
  });
  assertEquals([engines[19].orphans, heldTokens(kernel, tokens).matches], [
    1,
    before,
  ]);

  const tight = freshKernel({ blocks: 16 });
  const row = new EndpointTable(tight).add(
    CLUSTER,
    { hostname: "e", port: 1 },
    100,
    0,
  );
  const small = new BlockIndex(tight);
  const engine = new EngineBlocks(small, row, CLUSTER);
  for (let i = 0; i < 40; i++) {
    engine.apply({
      kind: "stored",
      hashes: [BigInt(2 * i + 1), BigInt(2 * i + 2)],
      parent: undefined,
      tokens: Array.from({ length: 64 }, (_, k) => 1_000 * i + k),
      blockTokens: 32,
      lora: "",
      extras: undefined,
      group: 0,
      prefix: true,
    });
  }
  assertEquals([engine.size, small.lost > 0], [80, true]);
  engine.forget();
  assertEquals(
    new Uint32Array(tight.buffer, tight.exports.blockIndexOffset(0), 32).every((
      word,
    ) => word === 0),
    true,
  );
});

Deno.test("captured streams: what two real engines published is held to the block, step by step", () => {
  for (const file of ["vllm1", "vllm2", "lora", "cleared", "sim1"]) {
    const kernel = freshKernel({ blocks: 65_536, promptChunks: 2_048 });
    const table = new EndpointTable(kernel);
    const row = table.add(CLUSTER, { hostname: "e", port: 1 }, 100, 0);
    const index = new BlockIndex(kernel);
    const blocks = new EngineBlocks(index, row, CLUSTER);
    /** Chains of tokens by the engine's hash, as a plain model. */
    const model = new Map<bigint, { lora: string; tokens: number[] }>();
    for (const { payload } of captured(file)) {
      for (const event of decodeBatch(payload).events) {
        blocks.apply(event);
        if (event.kind === "cleared") model.clear();
        if (event.kind === "removed") {
          for (const hash of event.hashes) model.delete(hash);
        }
        if (event.kind !== "stored") continue;
        index.setBlockTokens(row, event.blockTokens);
        let before = event.parent === undefined ? [] : model.get(event.parent)?.tokens;
        if (before === undefined) continue; // the capture begins in the middle
        event.hashes.forEach((hash, i) => {
          before = [
            ...before!,
            ...event.tokens.slice(
              i * event.blockTokens,
              (i + 1) * event.blockTokens,
            ),
          ];
          model.set(hash, { lora: event.lora, tokens: before });
        });
      }
      const held = new Set(
        Array.from(model.values(), ({ lora, tokens }) => `${lora}:${tokens}`),
      );
      for (const { lora, tokens } of model.values()) {
        let real = 0; // a block may stay when one before it goes
        while (
          held.has(`${lora}:${tokens.slice(0, real + blocks.blockTokens)}`) &&
          real < tokens.length
        ) real += blocks.blockTokens;
        assertEquals(heldTokens(kernel, [...tokens, 1], lora).of(row), real);
      }
      assertEquals(blocks.size, model.size);
    }
  }
});
