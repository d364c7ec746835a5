// SPDX-License-Identifier: Apache-2.0
import { assert, assertEquals, assertThrows } from "@std/assert";
import { GatewayError } from "../../src/base/errors.ts";
import { decodeRequest } from "../../src/openai/request.ts";
import { spliceBody } from "../../src/openai/splice.ts";
import { Random, seed } from "../support/seed.ts";

Deno.test("decodeRequest names what is wrong and where", () => {
  const wrong: [string, string, string | null][] = [
    ["", "no body", null],
    ["{", "not valid JSON", null],
    ["[]", "JSON object", null],
    ["null", "JSON object", null],
    ["{}", "`model`", "model"],
    ['{"model":3}', "`model`", "model"],
    ['{"model":"m"}', "`messages`", "messages"],
    ['{"model":"m","messages":[]}', "`messages`", "messages"],
    ['{"model":"m","messages":["hi"]}', "`messages[0]`", "messages[0]"],
    ['{"model":"m","messages":[{}],"stream":"yes"}', "`stream`", "stream"],
  ];
  for (const [body, message, param] of wrong) {
    const error = assertThrows(() => decodeRequest("chat", new TextEncoder().encode(body)), GatewayError, message);
    assertEquals([error.status, error.param], [400, param]);
  }
  assertThrows(() => decodeRequest("chat", Uint8Array.of(0x7b, 0xff, 0x7d)), GatewayError, "not valid UTF-8");
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
