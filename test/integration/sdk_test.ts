// SPDX-License-Identifier: Apache-2.0
import { assert, assertEquals, assertRejects } from "@std/assert";
import OpenAI from "openai";
import { startEngines, startTestGateway } from "../support/gateway.ts";

Deno.test("the official SDK: chat, streaming chat, legacy completion, models, errors", async (t) => {
  await using engines = startEngines(2, { speed: 10, models: ["m"] });
  await using gateway = await startTestGateway(engines);
  const client = new OpenAI({ baseURL: `${gateway.origin}/v1`, apiKey: "none", maxRetries: 0 });
  const messages = [{ role: "user" as const, content: "Hello" }];

  await t.step("chat", async () => {
    const { data, response, request_id } = await client.chat.completions.create({ model: "m", messages })
      .withResponse();
    assertEquals(data.choices[0].message.role, "assistant");
    assert(data.choices[0].message.content!.length > 0);
    assertEquals(data.usage!.completion_tokens, 16);
    assertEquals(response.headers.get("x-aigw-endpoint"), response.headers.get("x-mock-engine"));
    assert(response.headers.get("x-aigw-via"));
    assert(request_id);
  });
  await t.step("streaming chat", async () => {
    const stream = await client.chat.completions.create({
      model: "m",
      messages,
      stream: true,
      max_tokens: 5,
      stream_options: { include_usage: true },
    });
    let text = "";
    let usage: OpenAI.CompletionUsage | null | undefined;
    for await (const chunk of stream) {
      text += chunk.choices[0]?.delta.content ?? "";
      usage = chunk.usage ?? usage;
    }
    assertEquals(text.split(" ").length, 5);
    assertEquals(usage?.completion_tokens, 5);
    assertEquals(typeof usage?.prompt_tokens_details?.cached_tokens, "number");
  });
  await t.step("legacy completion, whole and streaming", async () => {
    const whole = await client.completions.create({ model: "m", prompt: "Once", max_tokens: 4 });
    assertEquals(whole.choices[0].text.split(" ").length, 4);
    const stream = await client.completions.create({ model: "m", prompt: "Once", max_tokens: 4, stream: true });
    let text = "";
    for await (const chunk of stream) text += chunk.choices[0].text;
    assertEquals(text, whole.choices[0].text);
  });
  await t.step("models", async () => {
    const models = [];
    for await (const model of client.models.list()) models.push(model.id);
    assertEquals(models, ["m"]);
  });
  await t.step("errors are the SDK's own classes", async () => {
    const missing = await assertRejects(
      () => client.chat.completions.create({ model: "nope", messages }),
      OpenAI.NotFoundError,
      'The model "nope" does not exist',
    );
    assertEquals([missing.code, missing.param, missing.type], ["model_not_found", "model", "NotFoundError"]);
    const none = await assertRejects(
      () => client.chat.completions.create({ model: "m" } as OpenAI.ChatCompletionCreateParamsNonStreaming),
      OpenAI.BadRequestError,
      "`messages` is required",
    );
    assertEquals(none.param, "messages");
    await assertRejects(
      () =>
        client.post("/chat/completions", {
          body: new TextEncoder().encode('{"model": "m", '),
          headers: { "content-type": "application/json" },
        }),
      OpenAI.BadRequestError,
      "not valid JSON",
    );
  });
  await t.step("an engine's own error passes unchanged", async () => {
    await assertRejects(
      () =>
        client.chat.completions.create({ model: "m", messages }, {
          headers: { "x-mock-fault": '{"kind":"status","status":429}' },
        }),
      OpenAI.RateLimitError,
      "fault: status 429",
    );
  });
  await gateway.settled();
});
