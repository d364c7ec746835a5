// SPDX-License-Identifier: Apache-2.0
// What exact knowledge of engines' caches costs: a decision with it beside one without, taking events in, and the tokens of
// a prompt, all of it new and with one new turn.

import { encode } from "@msgpack/msgpack";
import { KEY_TOKENS, keysOfTokens, rootKey } from "../src/base/block_keys.ts";
import { EngineBlocks } from "../src/cache_events/engine_blocks.ts";
import { type BlocksStored, type CacheEvent, decodeBatch } from "../src/cache_events/events.ts";
import { DecisionMaker } from "../src/scheduler/decision.ts";
import { BlockIndex } from "../src/tables/block_index.ts";
import { PromptTokenizer } from "../src/tokens/prompt_tokenizer.ts";
import { SegmentCache } from "../src/tokens/segment_cache.ts";
import { Random } from "../src/base/random.ts";
import { freshKernel } from "../test/support/kernel.ts";
import { tinyTokenizer } from "../test/support/tiny_tokenizer.ts";
import { loadedFleet, PLACEMENT, requestBody } from "./fixtures.ts";

const BLOCKS = 1_048_576;

function stored(tokens: number[], base: number): BlocksStored {
  return {
    kind: "stored",
    hashes: Array.from(
      { length: tokens.length / KEY_TOKENS },
      (_, i) => BigInt(base + i) * 0x9e3779b97f4a7c15n & 0xffff_ffff_ffff_ffffn,
    ),
    parent: undefined,
    tokens,
    blockTokens: KEY_TOKENS,
    lora: "",
    extras: undefined,
    group: 0,
    prefix: true,
  };
}

for (const endpoints of [8, 1_000]) {
  const { kernel, rows } = loadedFleet(endpoints);
  const decisions = new DecisionMaker(kernel);
  const index = new BlockIndex(kernel);
  const text = requestBody(8);
  const tokens = Array.from({ length: text.length / 4 }, (_, i) => i);
  const prompt = decisions.begin(text, PLACEMENT);
  const asked = {
    blocks: { keys: keysOfTokens(tokens, rootKey(0, "")), tokens: tokens.length },
    done: Promise.resolve(),
    soon: Promise.resolve(),
  };
  rows.forEach((row, i) => {
    index.setBlockTokens(row, KEY_TOKENS);
    if (i >= 4) return;
    decisions.caches.remember(prompt, PLACEMENT.salt, row);
    const blocks = new EngineBlocks(index, row, 0);
    blocks.apply(stored(tokens.slice(0, Math.floor(tokens.length / KEY_TOKENS) * KEY_TOKENS), 1));
  });
  const group = `decision, 8 KiB, ${endpoints} endpoints`;
  Deno.bench(`${group}: presumed`, { group, baseline: true }, () => {
    const { bytes } = decisions.begin(text, PLACEMENT);
    decisions.choose(PLACEMENT, bytes, 0, 0);
  });
  Deno.bench(`${group}: exact`, { group }, () => {
    const known = decisions.begin(text, PLACEMENT);
    known.asked = asked;
    decisions.resume(known, PLACEMENT, []);
    decisions.choose(PLACEMENT, known.bytes, 0, 0);
    decisions.caches.retire(known);
  });
}

{
  const kernel = freshKernel({ blocks: BLOCKS, endpoints: 64 });
  const random = new Random(1);
  // A thousand blocks come and a thousand go, of a cache that is full.
  const COUNT = 1_000;
  const events: CacheEvent[][] = Array.from({ length: 64 }, (_, i) => {
    const event = stored(Array.from({ length: COUNT * KEY_TOKENS }, () => random.below(128_000)), 1 + i * COUNT);
    return [event, { kind: "removed", hashes: event.hashes, group: 0 }];
  });
  const engine = new EngineBlocks(new BlockIndex(kernel), 3, 0);
  for (const [event] of events.slice(0, 60)) engine.apply(event);
  let at = 60;
  Deno.bench(`events: ${COUNT} blocks stored, ${COUNT} removed`, { group: "events", baseline: true }, () => {
    engine.apply(events[at % 64][0]);
    engine.apply(events[(at + 4) % 64][1]);
    at++;
  });
  const [{ hashes, tokens }] = events[0] as [BlocksStored];
  const payload = encode(
    [1, [{
      type: "BlockStored",
      block_hashes: hashes,
      parent_block_hash: null,
      token_ids: tokens,
      block_size: KEY_TOKENS,
    }], 0],
    { useBigInt64: true },
  );
  Deno.bench(`events: decode ${COUNT} blocks`, { group: "events" }, () => {
    decodeBatch(payload);
  });
}

{
  const tokenizer = new PromptTokenizer(tinyTokenizer(), new SegmentCache(268_435_456));
  const conversation = JSON.parse(requestBody(128)) as { messages: { role: string; content: string }[] };
  let turn = 0;
  const more = (bytes: number) => ({
    messages: [...conversation.messages, { role: "user", content: `${turn++} `.repeat(bytes / 4) }],
  });
  tokenizer.tokensOf(more(64));
  Deno.bench(
    "tokens: a conversation of 128 KiB and a new turn of 64 bytes",
    { group: "tokens", baseline: true },
    () => {
      tokenizer.tokensOf(more(64));
    },
  );
  Deno.bench("tokens: 8 KiB, all of it new", { group: "tokens" }, () => {
    tokenizer.tokensOf({
      messages: [{
        role: "user",
        content: JSON.parse(requestBody(8)).messages.map((m: { content: string }) => m.content).join(`${turn++}`),
      }],
    });
  });
}
