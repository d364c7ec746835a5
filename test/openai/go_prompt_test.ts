// SPDX-License-Identifier: Apache-2.0
// What openai-go 1.12 writes of messages, recorded.
import { assertEquals } from "@std/assert";
import { goPromptText } from "../../src/openai/go_prompt.ts";
import { promptText } from "../../src/openai/prompt_text.ts";
import { decodeRequest } from "../../src/openai/request.ts";

const RECORDED: [messages: string, text: string | undefined][] = [
  [
    '[{"role":"user","content":"hi <a>&b \\u2028 é 😀 \\"q\\" \\\\ \\u0001 \\b\\f \\t / \\u007f"}]',
    '[{"content":"hi \\u003ca\\u003e\\u0026b \\u2028 é 😀 \\"q\\" \\\\ \\u0001 \\b\\f \\t / \u007f","role":"user"}]',
  ],
  [
    '[{"role":"system","content":"s"},{"role":"user","name":"bob","content":"u"},{"role":"developer","content":"d"}]',
    '[{"content":"s","role":"system"},{"content":"u","name":"bob","role":"user"},{"content":"d","role":"developer"}]',
  ],
  [
    '[{"role":"assistant","content":"a","reasoning_content":"r","refusal":null,"tool_calls":' +
    '[{"id":"c1","type":"function","function":{"name":"f","arguments":"{}"}}],"extra":1},' +
    '{"role":"tool","tool_call_id":"c1","content":"res","name":"n"}]',
    '[{"refusal":null,"content":"a","tool_calls":[{"id":"c1","function":{"arguments":"{}","name":"f"},' +
    '"type":"function"}],"role":"assistant"},{"content":"res","tool_call_id":"c1","role":"tool"}]',
  ],
  [
    '[{"role":"assistant","content":[{"type":"text","text":"x"},{"type":"refusal","refusal":"no"}],' +
    '"audio":{"id":"z"},"function_call":{"name":"f","arguments":"a"},"name":"n","refusal":"r"}]',
    '[{"refusal":"r","name":"n","audio":{"id":"z"},"content":[{"text":"x","type":"text"},' +
    '{"refusal":"no","type":"refusal"}],"function_call":{"arguments":"a","name":"f"},"role":"assistant"}]',
  ],
  [
    '[{"role":"user","content":[{"type":"text","text":"t","cache_control":{}},{"type":"image_url",' +
    '"image_url":{"detail":"high","url":"data:image/png;base64,AAA="}}]}]',
    '[{"content":[{"text":"t","type":"text"},{"image_url":{"url":"data:image/png;base64,AAA=","detail":"high"},' +
    '"type":"image_url"}],"role":"user"}]',
  ],
  [
    '[{"role":"user","content":[{"type":"input_audio","input_audio":{"data":"A","format":"wav"}},' +
    '{"type":"file","file":{"filename":"n","file_id":"f"}},{"type":"file","file":{}}]}]',
    '[{"content":[{"input_audio":{"data":"A","format":"wav"},"type":"input_audio"},' +
    '{"file":{"file_id":"f","filename":"n"},"type":"file"},{"type":"file"}],"role":"user"}]',
  ],
  ['[{"role":"user","content":[{"type":"text","text":"t"},{"type":"video_url","video_url":{}}]}]', '[{"role":"user"}]'],
  [
    '[{"role":"assistant","content":null,"tool_calls":[]},{"role":"tool","content":"x"},{"role":"user","name":null}]',
    '[{"tool_calls":[],"role":"assistant"},{"content":"x","tool_call_id":"","role":"tool"},{"name":null,"role":"user"}]',
  ],
  ['[{"role":"critic","content":"x"}]', undefined],
  ['[{"role":"user","content":5}]', undefined],
  ['[{"role":"user","content":"\\ud800x"}]', undefined],
  ["[]", undefined],
];

Deno.test("goPromptText is what Go's library writes; what is not known for certain has none", () => {
  for (const [messages, text] of RECORDED) assertEquals(goPromptText(JSON.parse(messages)), text, messages);
});

Deno.test("promptText is Go's for chats without a salt, where that is asked for; tools are left out", () => {
  const text = (more: string, kind: "chat" | "completion" = "chat") =>
    promptText(decodeRequest(kind, new TextEncoder().encode(`{"model":"m",${more}}`)), {
      digest: () => "",
      payloadCharacters: 0,
      goChats: true,
    });
  const messages = '"messages":[{"role":"user","content":"<"}]';
  assertEquals(text(messages), '[{"content":"\\u003c","role":"user"}]');
  assertEquals(text(`${messages},"tools":[{"type":"function"}]`), text(messages));
  assertEquals(text(`${messages},"cache_salt":"s"`), 's\n[{"role":"user","content":"<"}]');
  assertEquals(text('"messages":[{"role":"critic","content":"<"}]'), '[{"role":"critic","content":"<"}]');
  assertEquals(text('"prompt":"<"', "completion"), "<");
});
