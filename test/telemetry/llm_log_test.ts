// SPDX-License-Identifier: Apache-2.0
// The log of texts: what was asked and answered, over every API, and nothing unless it is switched on.

import { assertEquals } from "@std/assert";
import { AnswerText } from "../../src/openai/answer_text.ts";
import { chat, post, startEngines, startTestGateway } from "../support/gateway.ts";

Deno.test("log of texts: question, answer and error of streams and whole answers; cut where it is long", async () => {
  const folder = await Deno.makeTempDir();
  const path = `${folder}/llm.log`;
  try {
    const asked: string[] = [];
    const answers: string[] = [];
    {
      await using engines = startEngines(1, { speed: 50 });
      const llm = { enabled: true, path, text_bytes: 2_000 };
      await using gateway = await startTestGateway(engines, { log: { enabled: false, llm } });
      for (const stream of [false, true]) {
        const body = chat("what?", { stream, max_tokens: 5 });
        asked.push(body);
        const text = await (await post(gateway.origin, body)).text();
        const chunks = stream
          ? text.split("\n\n").filter((event) => event.startsWith("data: {")).map((event) => JSON.parse(event.slice(6)))
          : [JSON.parse(text)];
        const said = chunks.flatMap(({ choices }) => choices ?? []);
        answers.push(said.map(({ message, delta }) => (message ?? delta).content ?? "").join(""));
      }
      asked.push(chat("x".repeat(5_000), { model: "nope" }));
      await (await post(gateway.origin, asked[2])).text();
      await gateway.settled();
    }
    const records = (await Deno.readTextFile(path)).trim().split("\n").map((line) => JSON.parse(line));
    assertEquals(records.length, 3);
    // Each of two workers writes its own.
    const recordOf = (body: string) => records.find(({ request }) => request === body.slice(0, 2_000));
    for (const [i, answer] of answers.entries()) {
      const { request, response, thinking, cut, error_message, completion_tokens } = recordOf(asked[i]);
      assertEquals([request, response, thinking, cut, error_message], [asked[i], answer, "", false, ""]);
      assertEquals(completion_tokens, 5);
    }
    const { request, request_bytes, cut, error_message, outcome } = recordOf(asked[2]);
    assertEquals([request, request_bytes, cut, outcome], [
      asked[2].slice(0, 2_000),
      asked[2].length,
      true,
      "model_not_found",
    ]);
    assertEquals(error_message, 'The model "nope" does not exist');
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("AnswerText reads every API's answers and events, and stops where it is told to", () => {
  const read = (
    kind: ConstructorParameters<typeof AnswerText>[0],
    wholes: unknown[],
    events: unknown[],
    most = 100,
  ) => {
    const text = new AnswerText(kind, most);
    for (const one of wholes) text.whole(one);
    for (const one of events) text.event(one);
    return [text.content.text, text.reasoning.text, text.error, text.content.cut];
  };
  const message = { content: "a", reasoning_content: "r" };
  assertEquals(read("chat", [{ choices: [{ message }, { message }] }], []), ["aa", "rr", "", false]);
  const deltas = [{ choices: [{ delta: { reasoning: "r" } }] }, { choices: [{ delta: { content: "a" } }] }, undefined];
  assertEquals(read("chat", [], deltas), ["a", "r", "", false]);
  assertEquals(read("chat", [], [{ error: { message: "broke" } }]), ["", "", "broke", false]);
  assertEquals(read("chat", [{ object: "error", message: "flat" }], []), ["", "", "flat", false]);
  assertEquals(read("completion", [{ choices: [{ text: "abcdef" }] }], [], 4), ["abcd", "", "", true]);
  const parts = { content: [{ type: "thinking", thinking: "t" }, { type: "text", text: "a" }] };
  assertEquals(read("messages", [parts], []), ["a", "t", "", false]);
  const block = (delta: unknown) => ({ type: "content_block_delta", delta });
  assertEquals(read("messages", [], [block({ thinking: "t" }), block({ text: "a" })]), ["a", "t", "", false]);
  const output = [
    { type: "reasoning", summary: [{ text: "r" }] },
    { type: "message", content: [{ type: "output_text", text: "a" }] },
  ];
  assertEquals(read("responses", [{ output }], []), ["a", "r", "", false]);
  const typed = [
    { type: "response.reasoning_text.delta", delta: "r" },
    { type: "response.output_text.delta", delta: "a" },
    { type: "response.failed", response: { error: { message: "no" } } },
  ];
  assertEquals(read("responses", [], typed), ["a", "r", "no", false]);
});
