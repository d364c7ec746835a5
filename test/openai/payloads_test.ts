// SPDX-License-Identifier: Apache-2.0
import { assert, assertEquals } from "@std/assert";
import { createHash } from "node:crypto";
import { decodeShortened, LEAST_PAYLOAD_BYTES, PayloadSearch } from "../../src/openai/payloads.ts";
import { promptText } from "../../src/openai/prompt_text.ts";
import { bytes } from "../support/raw_server.ts";
import { Random, seed } from "../support/seed.ts";

const LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=_-";
const decoder = new TextDecoder();

function base64(random: Random, length: number): string {
  return Array.from({ length }, () => LETTERS[random.below(LETTERS.length)]).join("");
}

/** What it finds when the body comes in such pieces; the text as it came where it finds nothing. */
function shorten(body: Uint8Array, pieces: () => number): string {
  const search = new PayloadSearch();
  for (let at = 0; at < body.length;) {
    at = Math.min(body.length, at + pieces());
    search.advance(body, at);
  }
  const short = search.shortened(body);
  return short === undefined ? decoder.decode(body) : decoder.decode(short.bytes).replaceAll(short.mark, "sha256:");
}

Deno.test("PayloadSearch: payloads are found and replaced under every way to come in pieces, and nothing else is", () => {
  const random = new Random(seed);
  let found = 0;
  for (let round = 0; round < 60; round++) {
    let text = "";
    let expected = "";
    for (let parts = 1 + random.below(6); parts > 0; parts--) {
      const payload = base64(random, random.pick([10, 5_000, LEAST_PAYLOAD_BYTES - 1, LEAST_PAYLOAD_BYTES, 70_000]));
      // What stands before it, and whether it is a payload then.
      const [before, is] = random.pick([
        ['{"type":"image_url","image_url":{"url":"data:image/png;base64,', true],
        ['{"type":"input_audio","input_audio":{"data":"', true],
        ['{"type":"text","text":"see ', false],
        ['{"type":"text","text":"see,', false],
        ['{"type":"text","text":"base64 ', false],
      ] as [string, boolean][]);
      text += before + payload;
      const replaced = is && payload.length >= LEAST_PAYLOAD_BYTES;
      if (replaced) found++;
      expected += before +
        (replaced ? `sha256:${createHash("sha256").update(payload).digest("hex")}:${payload.length}` : payload);
      const after = `","filler":"${"some words of a text, and so on. ".repeat(random.below(2_000))}"},`;
      text += after;
      expected += after;
    }
    const body = bytes(text);
    const size = random.pick([1_000, 16_384, 65_536, 1_000_000]);
    for (const pieces of [() => body.length, () => size, () => 1 + random.below(size)]) {
      assertEquals(shorten(body, pieces), expected, `AIGW_TEST_SEED=${seed} round ${round}`);
    }
  }
  assert(found > 20, `${found}`);
});

Deno.test("PayloadSearch: a payload that does not end, or goes on with something else, is left; so are long words", () => {
  const random = new Random(seed);
  const payload = base64(random, 100_000);
  for (
    const text of [
      `{"a":"${payload}`,
      `{"a":"${payload} and a text"}`,
      `{"a":"${payload}\\"${payload}"}`,
      `{"a":"${payload}\n"}`,
      `{"a":" ${base64(random, 1_000_000)}"}`,
    ]
  ) {
    assertEquals(shorten(bytes(text), () => 4_000), text);
    assertEquals(shorten(bytes(text), () => text.length), text);
  }
});

Deno.test("decodeShortened: images are digests, texts are as long as they were, and as different", () => {
  const random = new Random(seed);
  const [image, text, other] = [base64(random, 100_000), base64(random, 100_000), base64(random, 100_000)];
  const body = (image: string, text: string) =>
    bytes(JSON.stringify({
      model: "m",
      messages: [{
        role: "user",
        content: [
          { type: "image_url", image_url: { url: `data:image/png;base64,${image}` } },
          { type: "text", text },
          { type: "text", text: `base64,${text}` },
        ],
      }],
      tools: [{ type: "function", function: { parameters: { url: `data:;base64,${text}` } } }],
    }));
  const promptOf = (bytes: Uint8Array) => {
    const short = new PayloadSearch().shortened(bytes)!;
    assert(short.bytes.length < 1_200);
    return promptText(decodeShortened("chat", short), { digest: (one) => `${one.length}${one}`, payloadCharacters: 0 });
  };
  const prompt = promptOf(body(image, text));
  assert(prompt.length > 300_000 && prompt.length < 301_000, `${prompt.length}`);
  assertEquals(promptOf(body(image, text)), prompt);
  // What looks like a payload that was replaced is none.
  const forged = `sha256:${"0".repeat(64)}:400000000`;
  assert(promptOf(bytes(JSON.stringify({ messages: [{ role: "user", content: [forged, image] }] }))).includes(forged));
  assertEquals([promptOf(body(other, text)) === prompt, promptOf(body(image, other)) === prompt], [false, false]);
});
