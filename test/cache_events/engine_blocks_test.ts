// SPDX-License-Identifier: Apache-2.0
// What the index says against a model of the engine's own cache.

import { assertEquals } from "@std/assert";
import { EngineBlocks } from "../../src/cache_events/engine_blocks.ts";
import { decodeBatch } from "../../src/cache_events/events.ts";
import { BlockIndex } from "../../src/tables/block_index.ts";
import { EndpointTable } from "../../src/tables/endpoint_table.ts";
import { freshKernel } from "../support/kernel.ts";
import { Random, seed } from "../support/seed.ts";
import { captured } from "./captured.ts";
import { CLUSTER, heldTokens, runModel } from "./model.ts";

Deno.test("the index says of random conversations what engines of every block size hold, to the block", () => {
  const random = new Random(seed);
  for (const blockTokens of [1, 4, 16, 32, 64]) runModel(random, { blockTokens, steps: 300, blocks: 65_536 });
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

Deno.test("an engine that has a block twice holds it until it has removed it twice", () => {
  const kernel = freshKernel();
  const row = new EndpointTable(kernel).add(CLUSTER, { hostname: "e", port: 1 }, 100, 0);
  const index = new BlockIndex(kernel);
  index.setBlockTokens(row, 16);
  const engine = new EngineBlocks(index, row, CLUSTER);
  const tokens = Array.from({ length: 40 }, (_, i) => i);
  const stored = {
    kind: "stored" as const,
    hashes: [1n, 2n],
    parent: undefined,
    tokens: tokens.slice(0, 32),
    blockTokens: 16,
    lora: "",
    extras: undefined,
    group: 0,
    prefix: true,
  };
  engine.apply(stored);
  engine.apply(stored);
  engine.apply({ kind: "removed", hashes: [1n, 2n], group: 0 });
  assertEquals([heldTokens(kernel, tokens).of(row), engine.size], [32, 2]);
  engine.apply({ kind: "removed", hashes: [2n], group: 0 });
  assertEquals(heldTokens(kernel, tokens).of(row), 16);
  engine.apply({ kind: "removed", hashes: [1n, 1n], group: 0 });
  assertEquals([heldTokens(kernel, tokens).of(row), engine.size], [0, 0]);
});
