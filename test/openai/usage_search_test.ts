// SPDX-License-Identifier: Apache-2.0
import { assertEquals } from "@std/assert";
import { type Usage, usageOfBody } from "../../src/openai/usage.ts";
import { UsageSearch } from "../../src/openai/usage_search.ts";
import { Random, seed } from "../support/seed.ts";

const encoder = new TextEncoder();
const USAGE = { prompt_tokens: 7, completion_tokens: 3, prompt_tokens_details: { cached_tokens: 2 } };
const FOUND: Usage = { promptTokens: 7, completionTokens: 3, cachedTokens: 2 };
/** Answers, and the usage that is in them. */
const ANSWERS: [unknown, Usage | undefined][] = [
  [{ id: "c", usage: USAGE }, FOUND],
  [{ usage: USAGE, prompt_logprobs: [{ a: { logprob: -1 } }] }, FOUND],
  [{ choices: [{ text: 'he said "usage": {"prompt_tokens": 9} \\"usage":{' }], usage: USAGE }, FOUND],
  [{ choices: [{ text: "ü🙂" }], usage: { ...USAGE, note: 'a } in a "text"' } }, FOUND],
  [{ usage: null, data: [{ embedding: [0.5, -1e-9] }] }, undefined],
  [{ usage: { seconds: 3 } }, undefined],
  [{ usage: { input_tokens: 5, output_tokens: 6 }, x: { usage: "none" } }, { promptTokens: 5, completionTokens: 6 }],
  [["usage", { "usage ": USAGE }], undefined],
];

function searched(bytes: Uint8Array, ...cuts: number[]): Usage | undefined {
  const search = new UsageSearch();
  const ends = [...cuts, bytes.length];
  ends.forEach((end, i) => search.look(bytes.subarray(i === 0 ? 0 : ends[i - 1], end)));
  return search.usage;
}

Deno.test("UsageSearch finds the usage wherever the pieces are cut, spaced or not, as the whole body has it", () => {
  for (const [answer, usage] of ANSWERS) {
    for (const space of [0, 2, "\t"]) {
      const bytes = encoder.encode(JSON.stringify(answer, null, space));
      assertEquals(usageOfBody(bytes), usage);
      for (let cut = 0; cut <= bytes.length; cut++) assertEquals(searched(bytes, cut), usage, `cut at ${cut}`);
      assertEquals(searched(bytes, ...Array.from(bytes.keys())), usage, "byte by byte");
    }
  }
});

Deno.test("UsageSearch finds what the whole body has in random answers cut at random", () => {
  const random = new Random(seed);
  const words = ['"usage"', '"usage":{', "{", "}", '"', "\\", " ", "\n", ":", "x", JSON.stringify(USAGE)];
  for (let i = 0; i < 2_000; i++) {
    const texts = Array.from({ length: random.below(6) }, () => {
      return Array.from({ length: random.below(12) }, () => random.pick(words)).join("");
    });
    const bytes = encoder.encode(JSON.stringify({ texts, ...(random.below(4) > 0 ? { usage: USAGE } : {}) }));
    const cuts = Array.from({ length: random.below(5) }, () => random.below(bytes.length)).sort((a, b) => a - b);
    assertEquals(searched(bytes, ...cuts), usageOfBody(bytes), new TextDecoder().decode(bytes));
  }
});

Deno.test("UsageSearch holds no more than one usage object", () => {
  const search = new UsageSearch();
  search.look(encoder.encode(`{"usage":{"x":"${"y".repeat(100_000)}`));
  search.look(encoder.encode(`"},"usage":${JSON.stringify(USAGE)}}`));
  assertEquals(search.usage, FOUND);
});
