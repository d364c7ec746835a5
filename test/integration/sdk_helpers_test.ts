// SPDX-License-Identifier: Apache-2.0
// The helpers of the official SDKs, which take answers apart: parsed outputs, tools that are run, streams of every kind.

import { assert, assertEquals } from "@std/assert";
import Anthropic from "@anthropic-ai/sdk";
import OpenAI from "openai";
import { zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";
import { startEngines, startTestGateway } from "../support/gateway.ts";

const Weather = z.object({
  city: z.string(),
  degrees: z.number(),
  sky: z.enum(["clear", "cloudy"]),
  hours: z.array(z.object({ at: z.number().int(), rain: z.boolean() })),
});
const messages = [{ role: "user" as const, content: "How is the weather?" }];
const PARAMETERS = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };

Deno.test("SDK helpers: whatever is streamed or parsed comes out whole", async (t) => {
  await using engines = startEngines(1, { speed: 50, models: ["m"] });
  await using gateway = await startTestGateway(engines);
  const client = new OpenAI({ baseURL: `${gateway.origin}/v1`, apiKey: "none", maxRetries: 0 });

  await t.step("an answer of a shape is parsed, whole and streamed", async () => {
    const format = zodResponseFormat(Weather, "weather");
    const { choices: [{ message, finish_reason }] } = await client.chat.completions.parse({
      model: "m",
      messages,
      response_format: format,
    });
    assertEquals([finish_reason, message.parsed?.sky, message.parsed?.hours.length], ["stop", "clear", 1]);
    const stream = client.chat.completions.stream({ model: "m", messages, response_format: format });
    let deltas = 0;
    stream.on("content", () => deltas++);
    const final = await stream.finalChatCompletion();
    assertEquals(final.choices[0].message.parsed, message.parsed);
    assert(deltas > 3);
  });

  await t.step("tools are called, and their answers answered", async () => {
    const asked: unknown[] = [];
    const run = (stream: boolean) => {
      const body = {
        model: "m",
        messages,
        tools: [{
          type: "function" as const,
          function: {
            name: "weather",
            description: "Tells it",
            parameters: PARAMETERS,
            parse: JSON.parse,
            function: (given: unknown) => {
              asked.push(given);
              return "clear";
            },
          },
        }],
      };
      return stream
        ? client.chat.completions.runTools({ ...body, stream: true })
        : client.chat.completions.runTools(body);
    };
    for (const stream of [false, true]) assert((await run(stream).finalContent())!.length > 0);
    assertEquals(asked, [{ city: "words" }, { city: "words" }]);
  });

  await t.step("several choices, and the two ways to end", async () => {
    const body = { model: "m", messages, n: 3 };
    const { choices, usage } = await client.chat.completions.create(body);
    assertEquals(choices.map(({ index, finish_reason }) => [index, finish_reason]), [[0, "stop"], [1, "stop"], [
      2,
      "stop",
    ]]);
    assertEquals(usage!.completion_tokens, 48);
    const streamed = await client.chat.completions.stream({ ...body, max_tokens: 4 }).finalChatCompletion();
    assertEquals(streamed.choices.map(({ finish_reason }) => finish_reason), ["length", "length", "length"]);
    assert(streamed.choices.every(({ message }) => message.content!.split(" ").length === 4));
  });

  await t.step("responses: every event of a stream, parsed output, functions", async () => {
    const types: string[] = [];
    const stream = client.responses.stream({
      model: "m",
      input: "How is the weather?",
      text: { format: zodTextFormat(Weather, "weather") },
    });
    for await (const { type } of stream) if (types.at(-1) !== type) types.push(type);
    const final = await stream.finalResponse();
    assertEquals([final.output_parsed?.sky, final.status], ["clear", "completed"]);
    assertEquals(types, [
      "response.created",
      "response.in_progress",
      "response.output_item.added",
      "response.content_part.added",
      "response.output_text.delta",
      "response.output_text.done",
      "response.content_part.done",
      "response.output_item.done",
      "response.completed",
    ]);
    const tools = [{ type: "function" as const, name: "weather", parameters: PARAMETERS, strict: true }];
    const called = await client.responses.stream({ model: "m", input: "And now?", tools }).finalResponse();
    const [item] = called.output;
    assertEquals(item.type === "function_call" && [item.name, item.arguments], ["weather", '{"city":"words"}']);
    const plain = await client.responses.create({ model: "m", input: "Hello" });
    assert(plain.output_text.length > 0);
  });

  await t.step("Anthropic's messages stream to a final message", async () => {
    const anthropic = new Anthropic({ baseURL: gateway.origin, apiKey: "none", maxRetries: 0 });
    const final = await anthropic.messages.stream({ model: "m", max_tokens: 20, messages }).finalMessage();
    assertEquals([final.stop_reason, final.content[0].type], ["end_turn", "text"]);
  });
});
