// SPDX-License-Identifier: Apache-2.0
import { assert, assertEquals, assertThrows } from "@std/assert";
import { encode } from "@msgpack/msgpack";
import { type BlocksStored, decodeBatch, type EventBatch, MalformedEvents } from "../../src/cache_events/events.ts";
import { Random, seed } from "../support/seed.ts";
import { captured } from "./captured.ts";

const unsigned = (text: unknown) => BigInt.asUintN(64, BigInt(String(text).replace(/n$/, "")));

Deno.test("every captured batch of vLLM and of llm-d's simulator is read as it was captured", () => {
  const counts = { stored: 0, removed: 0, cleared: 0 };
  const batches = captured();
  for (const { payload, decoded: [seconds, events] } of batches) {
    const batch = decodeBatch(payload);
    assertEquals(batch.atMs, seconds * 1_000);
    assertEquals(batch.events.length, events.length);
    batch.events.forEach((event, i) => {
      counts[event.kind]++;
      const given = events[i];
      const field = (name: string, place: number) => Array.isArray(given) ? given[place] : given[name];
      if (event.kind === "cleared") return;
      assertEquals(
        event.hashes,
        (field("block_hashes", 1) as unknown[]).map(unsigned),
      );
      if (event.kind === "removed") return;
      const parent = field("parent_block_hash", 2);
      assertEquals(
        event.parent,
        parent === null || parent === "0n" ? undefined : unsigned(parent),
      );
      assertEquals([...event.tokens], field("token_ids", 3));
      assertEquals(event.blockTokens, field("block_size", 4));
      assertEquals(event.lora, field("lora_name", 7) ?? "");
      assertEquals([event.extras, event.prefix], [undefined, true]);
    });
  }
  if (batches.length > 0) {
    assert(counts.stored > 0 && counts.removed > 0 && counts.cleared > 0);
  }
});

const stored = (more: Record<string, unknown> = {}) => ({
  type: "BlockStored",
  block_hashes: [5n],
  parent_block_hash: null,
  token_ids: [1, 2],
  block_size: 2,
  ...more,
});
const read = (events: unknown[], rank: unknown = 0): EventBatch =>
  decodeBatch(encode([1.5, events, rank], { useBigInt64: true }));
const one = (more: Record<string, unknown>) => read([stored(more)]).events[0] as BlocksStored;

Deno.test("decodeBatch: SGLang's signed hashes, long ones, salts, adapters, ranks; what is not known is passed over", () => {
  assertEquals(one({ block_hashes: [-1n] }).hashes, [2n ** 64n - 1n]);
  assertEquals(
    one({ block_hashes: [Uint8Array.from({ length: 32 }, (_, i) => i)] })
      .hashes,
    [0x18191a1b1c1d1e1fn],
  );
  assertEquals(one({ cache_salt: "s" }).extras, ["s"]);
  assertEquals(one({ cache_salt: "s", parent_block_hash: 3 }).extras, undefined);
  // Of lower tiers nothing is taken, in whatever form it comes.
  assertEquals(
    read([stored({ medium: "CPU", token_ids: [], block_size: 0 }), { type: "BlockRemoved", medium: "DISK" }]).events,
    [],
  );
  assertEquals(one({ kv_cache_spec_kind: "sliding_window_mla" }).prefix, false);
  assertEquals(one({ kv_cache_spec_kind: "mla_attention" }).prefix, true);
  assertEquals(one({ lora_name: "ad0", extra_keys: [["ad0"]] }), {
    ...one({}),
    lora: "ad0",
  });
  assertEquals(one({ lora_id: 7, extra_keys: [[7, "salt"]] }).extras, ["salt"]);
  assertEquals(one({ lora_id: 7 }).lora, "#7");
  assertEquals(one({ extra_keys: [[["image", 3]]] }).extras, ['[["image",3]]']);
  assertEquals(one({ kv_cache_spec_kind: "sliding_window", group_idx: 1 }), {
    ...one({}),
    group: 1,
    prefix: false,
  });
  assertEquals(
    read([{ type: "Something" }, stored({ anything: 1 })], 3).rank,
    3,
  );
  assertEquals(
    read([{ type: "Something" }, 7, null, stored()]).events.length,
    1,
  );
  assertEquals(
    read([["AllBlocksCleared"], ["BlockRemoved", [9n], "GPU"]]).events,
    [
      { kind: "cleared" },
      { kind: "removed", hashes: [9n], group: 0 },
    ],
  );
});

Deno.test("decodeBatch: what is no batch has an error that says so, random bytes and cuts included", () => {
  for (
    const [event, why] of [
      [stored({ token_ids: [1] }), "1 tokens in 1 blocks of 2"],
      [stored({ token_ids: null }), "wants token_ids"],
      [stored({ block_size: 0 }), "block_size of 1 or more"],
      [stored({ block_hashes: ["a"] }), "a block's hash"],
      [stored({ token_ids: ["a", 2] }), "a token that is no number"],
      [{ type: "BlockRemoved" }, "wants block_hashes"],
    ] as const
  ) assertThrows(() => read([event]), MalformedEvents, why);
  assertThrows(
    () => decodeBatch(encode({ a: 1 })),
    MalformedEvents,
    "no batch",
  );
  const random = new Random(seed);
  const samples = [
    ...captured("vllm1").slice(0, 5).map(({ payload }) => payload),
    encode([1, [stored()], 0], { useBigInt64: true }),
  ];
  const harmless = (bytes: Uint8Array) => {
    try {
      decodeBatch(bytes);
    } catch (error) {
      if (!(error instanceof MalformedEvents)) throw error;
    }
  };
  for (const sample of samples) {
    for (let cut = 0; cut < sample.length; cut++) {
      assertThrows(() => decodeBatch(sample.subarray(0, cut)), MalformedEvents);
    }
    for (let i = 0; i < 2_000; i++) {
      const broken = sample.slice();
      for (let k = 0; k <= random.below(4); k++) {
        broken[random.below(broken.length)] = random.below(256);
      }
      harmless(broken);
    }
  }
  for (let i = 0; i < 5_000; i++) harmless(random.bytes(random.below(64)));
});
