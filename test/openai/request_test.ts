// SPDX-License-Identifier: Apache-2.0
import { assert, assertEquals, assertThrows } from "@std/assert";
import { GatewayError } from "../../src/base/errors.ts";
import { promptText } from "../../src/openai/prompt_text.ts";
import { decodeRequest } from "../../src/openai/request.ts";
import { spliceBody } from "../../src/openai/splice.ts";
import { Random, seed } from "../support/seed.ts";

Deno.test("decodeRequest names what is wrong and where", () => {
  const wrong: [string, string, string | null][] = [
    ["", "no body", null],
    ["{", "not valid JSON", null],
    ["[]", "JSON object", null],
    ["null", "JSON object", null],
    ['{"model":3}', "`model`", "model"],
    ['{"model":"m"}', "`messages`", "messages"],
    ['{"model":"m","messages":[]}', "`messages`", "messages"],
    ['{"model":"m","messages":["hi"]}', "`messages[0]`", "messages[0]"],
  ];
  for (const [body, message, param] of wrong) {
    const error = assertThrows(() => decodeRequest("chat", new TextEncoder().encode(body)), GatewayError, message);
    assertEquals([error.status, error.param], [400, param]);
  }
  assertThrows(() => decodeRequest("chat", Uint8Array.of(0x7b, 0xff, 0x7d)), GatewayError, "not valid UTF-8");
});

Deno.test("decodeRequest reads options as leniently as engines do", () => {
  const read = (options: string) =>
    decodeRequest("chat", new TextEncoder().encode(`{"model":"m","messages":[{}],${options}}`));
  for (const stream of ["true", "1", '"true"', '"Yes"', '"on"', '" T "', '"y"', '"1"']) {
    assertEquals(read(`"stream":${stream}`).stream, true, stream);
  }
  for (const stream of ["false", "0", "null", '"false"', '"maybe"', "2", "[]", "{}"]) {
    assertEquals(read(`"stream":${stream}`).stream, false, stream);
  }
  for (
    const [options, tokens, choices] of [
      ['"max_tokens":16', 16, 1],
      ['"max_tokens":"16"', 16, 1],
      ['"max_completion_tokens":16.0,"n":"2"', 32, 2],
      ['"max_tokens":null', undefined, 1],
      ['"max_tokens":"many"', undefined, 1],
      ['"max_tokens":-1,"n":0', undefined, 1],
      ['"n":null,"max_tokens":"8.0"', 8, 1],
    ] as const
  ) {
    const { maxTokens, choices: found } = read(options);
    assertEquals([maxTokens, found], [tokens, choices], options);
  }
  assertEquals(decodeRequest("chat", new TextEncoder().encode('{"messages":[{}]}')).model, "");
  const embeds = decodeRequest("completion", new TextEncoder().encode('{"model":"m","prompt_embeds":"AAAA"}'));
  assertEquals(promptText(embeds, { digest: (text) => `of ${text}`, payloadCharacters: 0 }), 'of "AAAA"');
});

Deno.test("decodeRequest answers random bytes with an error of its own, never another", () => {
  const random = new Random(seed);
  for (let i = 0; i < 2_000; i++) {
    try {
      decodeRequest(random.pick(["chat", "completion"]), random.bytes(random.below(60)));
    } catch (error) {
      assert(error instanceof GatewayError);
    }
  }
});

Deno.test("spliceBody changes the top-level model and not another byte", () => {
  for (
    const [before, after] of [
      ['{"model":"a"}', '{"model":"new"}'],
      [
        '{ "x":{"model":"a"}, "model" : "b" ,"y":["model",{"model":"c"}]}',
        '{ "x":{"model":"a"}, "model" : "new" ,"y":["model",{"model":"c"}]}',
      ],
      ['{"a":"model","model":"m\\"x"}', '{"a":"model","model":"new"}'],
      ['{"mod\\u0065l":"a","n":"\\\\"}', '{"mod\\u0065l":"new","n":"\\\\"}'],
      ['{"model":"a","model":"b"}', '{"model":"new","model":"new"}'],
      ['{"model":3,"x":"{\\"model\\":1}"}', '{"model":"new","x":"{\\"model\\":1}"}'],
    ]
  ) {
    const spliced = spliceBody(new TextEncoder().encode(before), [{ key: "model", value: "new" }]);
    assertEquals(new TextDecoder().decode(spliced), after);
    JSON.parse(after);
  }
});

Deno.test("splicing into an object without a key makes one with those keys", () => {
  const bytes = (text: string) => new TextEncoder().encode(text);
  for (const body of ["{}", " { } ", "{\n}"]) {
    const spliced = spliceBody(bytes(body), [{ key: "model", value: "m" }, { key: "n", value: 1 }]);
    assertEquals(JSON.parse(new TextDecoder().decode(spliced)), { model: "m", n: 1 });
  }
});
