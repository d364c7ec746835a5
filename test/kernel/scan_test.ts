// SPDX-License-Identifier: Apache-2.0
// The kernel reads chats as TypeScript does, or leaves them to it.

import { assert, assertEquals } from "@std/assert";
import { chatBody, compare } from "../fuzz/scan.ts";
import { bytes } from "../support/raw_server.ts";
import { Random, seed } from "../support/seed.ts";
import { sharedFiles } from "../support/shared.ts";

Deno.test("scan: 20,000 random bodies are the same request with the same prompt, or are left alone", () => {
  const random = new Random(seed);
  let taken = 0;
  for (let i = 0; i < 20_000; i++) if (compare(chatBody(random))) taken++;
  console.log(`AIGW_TEST_SEED=${seed}: ${taken} of 20,000 taken`);
  assert(taken > 3_000);
});

Deno.test("scan: a body cut at every byte, and with every byte changed", () => {
  const body = bytes(
    '{"model":"m","messages":[{"role":"system","content":"h\\u00e9\\n𝄞"},{"role":"user","content":[{"type":"text","text":"a"},"b",{"text":"c\\ud834"}]}],"stream":true,"max_tokens":5,"n":2,"stream_options":{"include_usage":true},"x":[1,{"y":null}]}',
  );
  assert(compare(body));
  for (let cut = 0; cut < body.length; cut++) assert(!compare(body.slice(0, cut)), `${cut}`);
  let taken = 0;
  for (let at = 0; at < body.length; at++) {
    for (let byte = 0; byte < 256; byte++) {
      const changed = body.slice();
      changed[at] = byte;
      if (compare(changed)) taken++;
    }
  }
  assert(taken > 1_000, `${taken}`);
});

Deno.test("scan: what is taken, and what is not", () => {
  const chat = (messages: string, more = "") => bytes(`{"model":"m","messages":${messages}${more}}`);
  const taken = [
    chat('[{"role":"user","content":"x"}]'),
    chat('[{"role":"user","content":null,"refusal":null}]'),
    chat('[{"role":"user","content":[{"type":"text","text":"x","cache_control":{"type":"ephemeral"}}]}]'),
    chat('[{"role":"user","content":["a","b","c"]}]'),
    chat('[{"role":"user","content":[]}]'),
    chat("[{}]"),
    chat('[{"content":"x","role":"user"}]'),
    chat('[{"role":"user","content":"x","name":"n"},{"role":"user","content":"y"}]'),
    chat('[{"role":"user","content":"x"}]', ',"tools":[{"type":"function"}]'),
    chat('[{"role":"assistant","content":null,"tool_calls":[{"id":"a","function":{"name":"f","arguments":"{}"}}]}]'),
    chat('[{"role":"user","content":"x"}]', ',"tools":null,"deep":[[[[{"a":[{}]}]]]]'),
    bytes(` { "messages" : [ { "role" : "user" , "content" : "x" } ] } `),
    chat(`[{"role":"user","content":"${"x".repeat(100_000)}"}]`),
  ];
  const left = [
    chat("[]"),
    chat('"x"'),
    chat('[{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}}]}]'),
    chat('["x"]'),
    chat('[{"role":"user","content":"x"}]', ',"tools":{"type":"function"}'),
    chat('[{"role":"user","content":"x"}]', ',"model":"n"'),
    chat('[{"role":"user","content":"x"}]', ',"cache_salt":"s"'),
    chat('[{"role":"user","content":"x"}]', `,"deep":${"[".repeat(65)}${"]".repeat(65)}`),
    bytes('\ufeff{"model":"m","messages":[{"role":"user","content":"x"}]}'),
    chat(`[{"role":"user","content":"${"x".repeat(200_000)}"}]`), // more than this kernel's text
    Uint8Array.from([...chat('[{"role":"user","content":"x"}]'), 0]),
  ];
  assertEquals(taken.map(compare), taken.map(() => true));
  assertEquals(left.map(compare), left.map(() => false));
});

Deno.test("scan: bodies that clients have sent", () => {
  const files = sharedFiles("data/sse", ".request.json");
  for (const { text } of files) compare(bytes(text));
});

Deno.test("scan: a conversation with tools, again and again: what was skipped is read once, and its order is kept", () => {
  const random = new Random(seed);
  const call = (i: number) =>
    `{"role":"assistant","content":null,"tool_calls":[{"id":"c${i}","type":"function","function":{"name":"f","arguments":"{\\"z\\": ${i}, \\"a\\": 0}"}}]}`;
  const messages: string[] = [];
  const tools = '"tools":[{"type":"function","function":{"name":"f","description":"d","parameters":{}}}]';
  for (let turn = 0; turn < 80; turn++) {
    const i = random.below(20);
    messages.push(
      random.pick([
        call(i),
        `{"role":"tool","tool_call_id":"c${i}","content":"${i}"}`,
        `{"role":"user","content":"${i}"}`,
      ]),
    );
    const fields = [`"messages":[${messages.join(",")}]`, tools, '"model":"m"'];
    assert(compare(bytes(`{${random.chance(0.5) ? fields.join(",") : fields.reverse().join(", ")}}`)), `${turn}`);
  }
});
