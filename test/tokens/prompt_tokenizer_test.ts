// SPDX-License-Identifier: Apache-2.0
import { assert, assertEquals, assertThrows } from "@std/assert";
import { Tokenizer } from "@huggingface/tokenizers";
import { loadTokenizer } from "../../src/tokens/load_tokenizer.ts";
import { PromptRenderer } from "../../src/tokens/prompt_renderer.ts";
import { PromptTokenizer } from "../../src/tokens/prompt_tokenizer.ts";
import { SegmentCache } from "../../src/tokens/segment_cache.ts";
import { Random, seed } from "../support/seed.ts";
import { tinyTokenizer, tinyTokenizerFile } from "../support/tiny_tokenizer.ts";

const cache = (bytes = 1_048_576) => new SegmentCache(bytes);
const ALPHABET = [..."abc XYZ\n\t0123 éß汉字😀'<|>", "<|im_start|>", "<|im_end|>", "  ", "the "];

Deno.test("a conversation in pieces, known or new, has the tokens that it has whole", () => {
  const random = new Random(seed);
  const files = tinyTokenizer();
  const pieces = new PromptTokenizer(files, cache());
  assert(pieces.incremental);
  const renderer = new PromptRenderer(files.config);
  const library = new Tokenizer(files.tokenizer as object, files.config as object);
  const messages: { role: string; content: string }[] = [];
  for (let turn = 0; turn < 60; turn++) {
    const content = Array.from({ length: random.below(60) }, () => random.pick(ALPHABET)).join("");
    messages.push({ role: random.pick(["user", "assistant", "system"]), content });
    const body = { messages: messages.slice(0, 1 + random.below(messages.length)) };
    const whole = library.encode(renderer.render(body)!.text, { add_special_tokens: false }).ids;
    assertEquals([...pieces.tokensOf(body)!], whole);
  }
});

Deno.test("what cannot be told is not told: images, templates that clients bring, lists of prompts", () => {
  const tokenizer = new PromptTokenizer(tinyTokenizer(), cache());
  const told = (body: Record<string, unknown>) => tokenizer.tokensOf(body)?.length;
  const text = { role: "user", content: "hello" };
  const image = { role: "user", content: [{ type: "image_url", image_url: { url: "data:," } }] };
  assertEquals(told({ messages: [text, image] }), undefined);
  assertEquals(told({ messages: [text], chat_template: "{{ 1 }}" }), undefined);
  assertEquals(told({ messages: [text], continue_final_message: true }), undefined);
  assertEquals(told({ messages: "hello" }), undefined);
  assertEquals(told({ messages: [null] }), undefined);
  assertEquals(told({ prompt: ["a", "b"] }), undefined);
  assertEquals(told({}), undefined);
  assertEquals([...tokenizer.tokensOf({ prompt: [1, 2, 3] })!], [1, 2, 3]);
  assertEquals([...tokenizer.tokensOf({ prompt: "ab" })!], [
    ...tokenizer.tokensOf({ prompt: "ab", add_special_tokens: false })!,
  ]);
  const parts = { role: "user", content: [{ type: "text", text: "hello" }] };
  assertEquals(tokenizer.tokensOf({ messages: [parts] }), tokenizer.tokensOf({ messages: [text] }));
});

Deno.test("PromptRenderer: parts, tools and arguments as engines hand them to templates", () => {
  const rendered = (template: string, body: Record<string, unknown>) =>
    new PromptRenderer({ bos_token: { content: "<s>" }, eos_token: "</s>" }, template).render(body)?.text;
  const two = { role: "user", content: [{ type: "text", text: "a" }, { type: "text", text: "b" }] };
  assertEquals(rendered("{{ bos_token }}{{ messages[0].content }}{{ eos_token }}", { messages: [two] }), "<s>a\nb</s>");
  const parts = "{% for p in messages[0].content %}[{{ p.text }}]{% endfor %}";
  assertEquals(
    rendered(`{% for m in messages %}{% for p in m.content %}[{{ p.text }}]{% endfor %}{% endfor %}`, {
      messages: [two],
    }),
    "[a][b]",
  );
  assertEquals(
    rendered(parts.replace("messages[0]", "m").replace(/^/, "{% for m in messages %}") + "{% endfor %}", {
      messages: [{ role: "user", content: "x" }],
    }),
    "[x]",
  );
  const call = { role: "assistant", content: null, tool_calls: [{ function: { name: "f", arguments: '{"x": 1}' } }] };
  assertEquals(
    rendered(
      "{{ messages[0].tool_calls[0].function.arguments.x }}|{{ messages[0].content }}|{% if tools is none %}none{% endif %}",
      {
        messages: [call],
      },
    ),
    "1||none",
  );
  assertEquals(
    rendered("{% if add_generation_prompt %}go{% endif %}{{ thinking }}", {
      messages: [two],
      chat_template_kwargs: { thinking: 1 },
    }),
    "go1",
  );
  const tool = { function: { strict: true, parameters: { b: 1, a: 2 }, name: "f" } };
  assertEquals(
    rendered("{{ tools | tojson }}", { messages: [two], tools: [tool] }),
    '[{"type": "function", "function": {"name": "f", "description": null, "parameters": {"b": 1, "a": 2}, "strict": true}}]',
  );
  const own = { role: "user", content: "x", anything: 1, name: "n" };
  assertEquals(rendered("{{ messages[0].anything }}{{ messages[0].name }}", { messages: [own] }), "n");
  assertEquals(rendered("x", { messages: [{ role: "assistant", content: "x", reasoning_content: "y" }] }), undefined);
  assertEquals(rendered("{{ raise_exception('no') }}", { messages: [two] }), undefined);
});

Deno.test("SegmentCache keeps within its bound what was asked for last", () => {
  const kept = cache(3 * (128 + 2 + 4));
  for (const text of ["a", "b", "c"]) kept.set(text, Uint32Array.of(1));
  kept.get("a");
  kept.set("d", Uint32Array.of(1));
  assertEquals(["a", "b", "c", "d"].map((text) => kept.get(text)?.length), [1, undefined, 1, 1]);
  kept.set("x".repeat(10_000), Uint32Array.of(1));
  assertEquals([kept.get("x".repeat(10_000)), kept.bytes <= kept.maxBytes], [undefined, true]);
});

Deno.test("loadTokenizer: what is wrong is said with the file's name", async () => {
  const file = await tinyTokenizerFile();
  const load = (paths: { file?: string; configFile?: string; templateFile?: string }) =>
    loadTokenizer({ file, configFile: undefined, templateFile: undefined, ...paths }, cache());
  assert(load({}).incremental);
  assertThrows(() => load({ file: "/nowhere/t.json" }), Error, "/nowhere/t.json cannot be read");
  assertThrows(() => load({ configFile: "/nowhere/c.json" }), Error, "/nowhere/c.json cannot be read");
  const broken = await Deno.makeTempFile();
  await Deno.writeTextFile(broken, "{");
  assertThrows(() => load({ file: broken }), Error, `${broken} is no JSON`);
  await Deno.writeTextFile(broken, "{{ % broken");
  assertThrows(() => load({ templateFile: broken }), Error, file);
  await Deno.writeTextFile(broken, "{}");
  assertThrows(() => load({ file: broken }), Error, broken);
  await Deno.remove(broken);
});
