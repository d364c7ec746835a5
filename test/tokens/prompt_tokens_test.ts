// SPDX-License-Identifier: Apache-2.0
// The thread that tokenises, from the side of its worker.

import { assert, assertEquals } from "@std/assert";
import { keysOfTokens, rootKey } from "../../src/base/block_keys.ts";
import { PromptTokenizer } from "../../src/tokens/prompt_tokenizer.ts";
import { PromptTokens } from "../../src/tokens/prompt_tokens.ts";
import { SegmentCache } from "../../src/tokens/segment_cache.ts";
import { tinyTokenizer, tinyTokenizerFile } from "../support/tiny_tokenizer.ts";
import { until } from "../support/until.ts";

const file = await tinyTokenizerFile();
const paths = (name: string) => ({ file: name, configFile: undefined, templateFile: undefined });
const encode = (value: unknown) => new TextEncoder().encode(JSON.stringify(value));
const BODY = { messages: [{ role: "user", content: "a word or two, many times over" }] };
const prompt = (more = {}) => ({ model: "m", body: encode(BODY), cluster: 3, lora: "", salt: "", ...more });

Deno.test("PromptTokens: keys of a prompt, apart by cluster, adapter and salt; what cannot be told is told as that", async () => {
  const words: [string, boolean][] = [];
  const tokens = new PromptTokens({
    loaded: (model, error) => words.push([model, error === undefined]),
    disagree() {},
    failed() {},
  });
  tokens.configure({ models: new Map([["m", paths(file)], ["n", paths("/nowhere")]]), cacheBytes: 65_536, atOnce: 3 });
  assert(!tokens.knows("m"));
  await until(() => words.length === 2, "both are tried");
  assertEquals([words, tokens.knows("m"), tokens.knows("n")], [[["m", true], ["n", false]], true, false]);
  const keysOf = async (more = {}) => {
    const asked = tokens.ask(prompt(more))!;
    await asked.done;
    return asked.blocks;
  };
  const ids = new PromptTokenizer(tinyTokenizer(), new SegmentCache(0)).tokensOf(BODY)!;
  assertEquals(await keysOf(), { keys: keysOfTokens(ids, rootKey(3, "")), tokens: ids.length });
  const all = [await keysOf(), await keysOf({ cluster: 4 }), await keysOf({ lora: "a" }), await keysOf({ salt: "a" })];
  assertEquals(new Set(all.map((blocks) => blocks!.keys.join())).size, 4);
  assertEquals(
    await keysOf({ body: encode({ messages: [{ role: "user", content: [{ type: "image_url" }] }] }) }),
    undefined,
  );
  assertEquals(await keysOf({ body: new TextEncoder().encode("{") }), undefined);
  assertEquals(await keysOf({ body: encode({ prompt: "short" }) }), undefined, "no whole block");
  assertEquals(await keysOf({ model: "n" }), undefined);

  // No more at once than the bound; who waits when it ends is let go.
  const asked = [1, 2, 3].map(() => tokens.ask(prompt())!);
  assertEquals(tokens.ask(prompt()), undefined);
  tokens.close();
  await Promise.all(asked.map(({ done }) => done));
  assertEquals(asked.map(({ blocks }) => blocks), [undefined, undefined, undefined]);
});

Deno.test("PromptTokens: another configuration is taken over, none ends the thread", async () => {
  let loads = 0;
  const tokens = new PromptTokens({ loaded: () => loads++, disagree() {}, failed() {} });
  const settings = { models: new Map([["m", paths(file)]]), cacheBytes: 65_536, atOnce: 8 };
  tokens.configure(settings);
  tokens.configure({ ...settings });
  await until(() => tokens.knows("m"), "it is loaded");
  tokens.configure({ ...settings, models: new Map([["k", paths(file)]]) });
  await until(() => tokens.knows("k"), "another one is loaded");
  assertEquals([tokens.knows("m"), loads], [false, 2]);
  tokens.configure({ ...settings, models: new Map() });
  assertEquals(tokens.knows("k"), false);
});

Deno.test("PromptTokens: of prompts whose tokens engines count otherwise three times in a row, no more are made", async () => {
  const words: unknown[] = [];
  const tokens = new PromptTokens({ loaded() {}, disagree: (...told) => words.push(told), failed() {} });
  tokens.configure({ models: new Map([["m", paths(file)]]), cacheBytes: 65_536, atOnce: 3 });
  await until(() => tokens.knows("m"), "it is loaded");
  const answer = async (more: number, tools: boolean) => {
    const asked = tokens.ask(prompt({ tools }));
    await asked?.done;
    if (asked?.blocks) asked.counted?.(asked.blocks.tokens + more);
    return asked !== undefined;
  };
  for (const more of [1, 1, 0, 1, 1]) assert(await answer(more, true));
  assertEquals(words, []);
  assert(await answer(1, true));
  assertEquals([await answer(1, true), await answer(0, false), words.length], [false, true, 1]);
  tokens.close();
});

Deno.test("PromptTokens: who would wait in vain is told so, and gets the keys all the same", async () => {
  const tokens = new PromptTokens({ loaded() {}, disagree() {}, failed() {} });
  tokens.configure({ models: new Map([["m", paths(file)]]), cacheBytes: 8_388_608, atOnce: 3 });
  await until(() => tokens.knows("m"), "it is loaded");
  const long = encode({ messages: [{ role: "user", content: "word and other ".repeat(20_000) }] });
  const asked = tokens.ask(prompt({ body: long, waitMs: 1 }))!;
  await asked.soon;
  assertEquals(asked.blocks, undefined);
  await asked.done;
  assert(asked.blocks!.tokens > 10_000);
  // Known by now: there is nothing to wait for.
  const again = tokens.ask(prompt({ body: long, waitMs: 1 }))!;
  await again.soon;
  assertEquals(again.blocks, asked.blocks);
  tokens.close();
});
