// SPDX-License-Identifier: Apache-2.0
import { assert, assertEquals, assertThrows } from "@std/assert";
import { GatewayError } from "../../src/base/errors.ts";
import { promptText } from "../../src/openai/prompt_text.ts";
import { decodeRequest } from "../../src/openai/request.ts";
import { DecisionMaker } from "../../src/scheduler/decision.ts";
import { freshKernel } from "../support/kernel.ts";

const { digest } = new DecisionMaker(freshKernel());
const text = (json: string) =>
  promptText(
    decodeRequest(json.includes('"messages"') ? "chat" : "completion", new TextEncoder().encode(json)),
    { digest, payloadCharacters: 4_194_304 },
  );

Deno.test("promptText is the JSON of the messages, whatever white space and key order the client used", () => {
  const plain = '[{"role":"user","content":"a\\"é"}]';
  assertEquals(text(`{"model":"m","messages":${plain}}`), plain);
  assertEquals(text('{"model":"m", "messages" : [ {"content": "a\\"\\u00e9", "role":"user"} ] }'), plain);
  assertEquals(
    text('{"model":"m","messages":[{"role":"a","z":{"b":1,"a":[null,true]},"content":null}]}'),
    '[{"role":"a","z":{"a":[null,true],"b":1}}]',
  );
});

Deno.test("promptText of a completion is its prompt; tools and salt stand before", () => {
  assertEquals(text('{"model":"m","prompt":"Once"}'), "Once");
  assertEquals(text('{"model":"m","prompt":"Once","cache_salt":"s"}'), "s\nOnce");
  assert(
    text('{"model":"m","messages":[{"role":"user","content":"x"}],"tools":[{"b":1,"a":2}]}').startsWith(
      '[{"a":2,"b":1}][',
    ),
  );
});

Deno.test("promptText replaces payloads by digests of their kind's length: equal images match, others differ", () => {
  const image = (url: string, extra = "") =>
    text(
      `{"model":"m","messages":[{"role":"user","content":[{"type":"image_url"${extra},"image_url":{"url":"${url}"}}]}]}`,
    );
  assertEquals(image("data:image/png;base64,AAAA"), image("data:image/png;base64,AAAA"));
  assert(image("data:image/png;base64,AAAA") !== image("data:image/png;base64,AAAB"));
  const large = image(`data:image/png;base64,${"A".repeat(3_000_000)}`);
  assertEquals(large.length, image("data:,x").length);
  assert(large.length > 4_096 && large.length < 4_300);
  const audio = text(
    '{"model":"m","messages":[{"role":"user","content":[{"type":"input_audio","input_audio":{"data":"x"}}]}]}',
  );
  assert(audio.length > 40_960 && audio.length < 41_200);
});

Deno.test("promptText refuses what is nested too deeply for the stack", () => {
  const deep = `${"[".repeat(200_000)}${"]".repeat(200_000)}`;
  assertThrows(() => text(`{"model":"m","messages":[{"role":"u","content":${deep}}]}`), GatewayError);
});

Deno.test("promptText: many payloads are bounded, odd types keep their content", () => {
  const parts = JSON.stringify(Array.from({ length: 12_000 }, (_, i) => ({ type: "audio", i })));
  assert(text(`{"model":"m","messages":[{"role":"user","content":${parts}}]}`).length < 6_000_000);
  for (const type of ["constructor", "toString", "__proto__"]) {
    assert(
      text(`{"model":"m","messages":[{"role":"user","content":[{"type":"${type}","text":"kept"}]}]}`).includes("kept"),
    );
  }
  assert(text('{"model":"m","messages":[{"role":"user","content":"hi","type":"audio"}]}').includes('"hi"'));
});
