// SPDX-License-Identifier: Apache-2.0
// Decisions by what engines tell of their caches: over the real queue and kernel.

import { assert, assertEquals } from "@std/assert";
import { keysOfTokens, rootKey } from "../../src/base/block_keys.ts";
import { EngineBlocks } from "../../src/cache_events/engine_blocks.ts";
import { BlockIndex } from "../../src/tables/block_index.ts";
import type { PromptBlocks } from "../../src/tokens/prompt_tokens.ts";
import type { Grant } from "../../src/scheduler/scheduler.ts";
import { schedulerParts, settle } from "../support/parts.ts";

const TOKENS = Array.from({ length: 1_000 }, (_, i) => 7 * i);
/** A prompt of 4 bytes a token. */
const PROMPT = "word".repeat(TOKENS.length);
const BYTES_PER_TOKEN = 4;

function blocksOf(tokens: readonly number[]): PromptBlocks {
  return { keys: keysOfTokens(tokens, rootKey(0, "")), tokens: tokens.length };
}

/** Endpoints whose engines tell that they hold so many of the prompt's first tokens, in blocks of 16. */
function parts(held: readonly number[]) {
  const scheduler = schedulerParts(held.length);
  const { kernel, rows, queue } = scheduler;
  const index = new BlockIndex(kernel);
  const engines = rows.map((row, i) => {
    index.setBlockTokens(row, 16);
    const engine = new EngineBlocks(index, row, 0);
    if (held[i] > 0) store(engine, held[i]);
    return engine;
  });
  const asked = {
    blocks: blocksOf(TOKENS) as PromptBlocks | undefined,
    done: Promise.resolve(),
    soon: Promise.resolve(),
  };
  const blocks = { asked, waitMs: 5 };
  const acquire = (more = {}) => queue.acquire(scheduler.ask(PROMPT, { blocks, ...more }), () => {});
  /** What each endpoint is known to hold of the prompt, in tokens; undefined where that is presumed. */
  const known = () => {
    const { candidates } = queue.decisions.explain(PROMPT, scheduler.placement, 0, scheduler.clock.shared(), asked);
    return rows.map((row) => {
      const { cachedBytes, cachedExactly } = candidates.find((one) => one.row === row)!;
      return cachedExactly ? cachedBytes / BYTES_PER_TOKEN : undefined;
    });
  };
  return { ...scheduler, index, engines, asked, acquire, known };
}

function store(engine: EngineBlocks, tokens: number): void {
  const hashes = Array.from({ length: tokens / 16 }, (_, i) => BigInt(i + 1));
  engine.apply({
    kind: "stored",
    hashes,
    parent: undefined,
    tokens: TOKENS.slice(0, tokens),
    blockTokens: 16,
    lora: "",
    extras: undefined,
    group: 0,
    prefix: true,
  });
}

Deno.test("the engine that tells to hold most gets it; what was sent to others counts for nothing", async () => {
  using all = parts([64, 640, 0]);
  // By its text, it was on the last one.
  const prompt = all.queue.decisions.begin(PROMPT, all.placement);
  all.queue.decisions.caches.remember(prompt, all.placement.salt, all.rows[2]);
  assertEquals(all.known(), [64, 640, 0]);
  using grant = await all.acquire();
  assertEquals([grant.leg.endpoint.row, grant.leg.matchedExactly, grant.leg.matchedBytes], [
    all.rows[1],
    true,
    640 * BYTES_PER_TOKEN,
  ]);
});

Deno.test("whole blocks count, and never a prompt's last token", () => {
  using all = parts([992, 16]);
  assertEquals(all.known(), [992, 16]);
  all.asked.blocks = blocksOf(TOKENS.slice(0, 992));
  assertEquals(all.known()[0], Math.ceil(976 * 4_000 / 992) / 4, "the last block has the last token");
});

Deno.test("what a request computes counts as held where it is, until it is over", async () => {
  using all = parts([0, 0]);
  const first = await all.acquire();
  const at = all.rows.indexOf(first.leg.endpoint.row);
  first.leg.sent();
  const known = all.known();
  assertEquals([known[at], known[1 - at]], [992, 0]);
  first[Symbol.dispose]();
  assertEquals(all.known(), [0, 0]);
});

Deno.test("tokens that do not come in time: the text decides, and later looks know them", async () => {
  using all = parts([640, 0]);
  const done = Promise.withResolvers<void>();
  const asked = { blocks: undefined as PromptBlocks | undefined, done: done.promise, soon: done.promise };
  const waiting = all.acquire({ blocks: { asked, waitMs: 5 } });
  await settle();
  all.clock.advance(4);
  await settle();
  let granted = false;
  waiting.then(() => granted = true);
  await settle();
  assert(!granted);
  all.clock.advance(2);
  using grant = await waiting;
  assertEquals(grant.leg.matchedExactly, false);
  // Nobody has room.
  const busy: Grant[] = [];
  for (const onlyEndpoint of all.rows) {
    busy.push(await all.queue.acquire(all.ask("x".repeat(100_000) + onlyEndpoint, { onlyEndpoint }), () => {}));
  }
  for (const { leg } of busy) leg.sent();
  const second = all.acquire({ blocks: { asked, waitMs: 0 } });
  await settle();
  assertEquals(all.queue.waiting, 1);
  asked.blocks = all.asked.blocks;
  for (const one of busy) one[Symbol.dispose]();
  using last = await second;
  const its = all.rows.indexOf(last.leg.endpoint.row);
  assertEquals([last.leg.matchedExactly, last.leg.matchedBytes], [true, [640, 0][its] * BYTES_PER_TOKEN]);
});

Deno.test("a fleet of which some tell nothing: these are presumed, the others known", async () => {
  using all = parts([320, 0]);
  all.index.setBlockTokens(all.rows[1], 0);
  const prompt = all.queue.decisions.begin(PROMPT, all.placement);
  all.queue.decisions.caches.remember(prompt, all.placement.salt, all.rows[1]);
  assertEquals(all.known(), [320, undefined]);
  using grant = await all.acquire();
  assertEquals([grant.leg.endpoint.row, grant.leg.matchedExactly], [all.rows[1], false]);
});

Deno.test("requests that come at once are each decided by what is known of their own prompt", async () => {
  using all = parts([640, 0]);
  const others = TOKENS.map((token) => token + 1);
  const hashes = Array.from({ length: 40 }, (_, i) => BigInt(1_000 + i));
  all.engines[1].apply({
    kind: "stored",
    hashes,
    parent: undefined,
    tokens: others.slice(0, 640),
    blockTokens: 16,
    lora: "",
    extras: undefined,
    group: 0,
    prefix: true,
  });
  const there = (tokens: readonly number[]) => ({
    asked: { blocks: blocksOf(tokens), done: Promise.resolve(), soon: Promise.resolve() },
    waitMs: 5,
  });
  const [first, second, third] = await Promise.all([
    all.acquire(),
    all.queue.acquire(all.ask("else".repeat(1_000), { blocks: there(others) }), () => {}),
    all.acquire({
      blocks: {
        asked: { blocks: undefined, done: new Promise<void>(() => {}), soon: new Promise<void>(() => {}) },
        waitMs: 0,
      },
    }),
  ]);
  assertEquals([first, second].map(({ leg }) => [leg.endpoint.row, leg.matchedBytes]), [[all.rows[0], 2_560], [
    all.rows[1],
    2_560,
  ]]);
  assertEquals(third.leg.matchedExactly, false);
  for (const grant of [first, second, third]) grant[Symbol.dispose]();
});

Deno.test("two requests compute the same blocks: they count until both are over", async () => {
  using all = parts([0, 0]);
  const onlyEndpoint = all.rows[1];
  const [first, second] = [await all.acquire({ onlyEndpoint }), await all.acquire({ onlyEndpoint })];
  // Its tokens come when it has been sent.
  const asked = { blocks: undefined as PromptBlocks | undefined, done: Promise.resolve(), soon: Promise.resolve() };
  const third = await all.acquire({ onlyEndpoint, blocks: { asked, waitMs: 0 } });
  asked.blocks = all.asked.blocks;
  for (const { leg } of [first, second, third]) leg.sent();
  assertEquals(all.known(), [0, 992]);
  third[Symbol.dispose]();
  first[Symbol.dispose]();
  assertEquals(all.known(), [0, 992]);
  second[Symbol.dispose]();
  assertEquals(all.known(), [0, 0]);
});

Deno.test("the time to the first token is predicted by what is known to be held", async () => {
  using cold = parts([0]);
  using warm = parts([992]);
  const [first, second] = [await cold.acquire(), await warm.acquire()];
  assert(first.predictedMs > second.predictedMs, `${first.predictedMs} and ${second.predictedMs}`);
  for (const grant of [first, second]) grant[Symbol.dispose]();
});

Deno.test("a prompt is tokenised only for a cluster of which an engine tells what it holds", () => {
  using all = parts([0, 0]);
  assertEquals(all.queue.decisions.tells(0), true);
  all.index.setBlockTokens(all.rows[0], 0);
  assertEquals(all.queue.decisions.tells(0), true);
  all.index.setBlockTokens(all.rows[1], 0);
  assertEquals([all.queue.decisions.tells(0), all.queue.decisions.tells(1)], [false, false]);
});
