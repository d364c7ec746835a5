// SPDX-License-Identifier: Apache-2.0
// Every path with the official SDK and with plain HTTP; answers checked against OpenAI's schemas.

import { assert, assertEquals, assertRejects } from "@std/assert";
import Anthropic from "@anthropic-ai/sdk";
import OpenAI from "openai";
import { chat, post, startEngineProcess, startEngines, startTestGateway } from "../support/gateway.ts";
import { until } from "../support/until.ts";
import { responseValidator } from "../support/openapi.ts";
import { bytes, startRawServer } from "../support/raw_server.ts";

const validate = responseValidator();

Deno.test("every path answers in the right shape", async (t) => {
  await using engines = startEngines(3, { speed: 20, models: ["m"] });
  await using gateway = await startTestGateway(engines);
  const client = new OpenAI({ baseURL: `${gateway.origin}/v1`, apiKey: "none", maxRetries: 0 });
  const messages = [{ role: "user" as const, content: "Hello" }];
  const call = async (path: string, body: unknown, method = "POST") => {
    const response = await fetch(`${gateway.origin}${path}`, {
      method,
      ...(method === "POST" ? { body: JSON.stringify(body) } : {}),
    });
    return { status: response.status, headers: response.headers, body: await response.json() };
  };

  await t.step("chat", async () => {
    validate("CreateChatCompletionResponse", await client.chat.completions.create({ model: "m", messages }));
    const stream = await client.chat.completions.create({ model: "m", messages, stream: true, max_tokens: 4 });
    let chunks = 0;
    for await (const chunk of stream) {
      validate("CreateChatCompletionStreamResponse", chunk);
      assertEquals(chunk.usage ?? null, null);
      chunks++;
    }
    assertEquals(chunks, 5);
    assertEquals(await gateway.metric("aigw_completion_tokens_total"), 20);
  });
  await t.step("completions", async () => {
    validate("CreateCompletionResponse", await client.completions.create({ model: "m", prompt: "Once" }));
  });
  await t.step("embeddings", async () => {
    for (const input of ["a", ["a", "b"], [1, 2, 3]]) {
      const answer = await client.embeddings.create({ model: "m", input });
      assertEquals(answer.data[0].embedding, [0.25, -0.5, 0.125]);
      validate("CreateEmbeddingResponse", { ...answer, data: answer.data.map((one) => ({ ...one })) });
    }
  });
  await t.step("models", async () => {
    const { body } = await call("/v1/models", undefined, "GET");
    validate("ListModelsResponse", body);
    validate("Model", await client.models.retrieve("m"));
    await assertRejects(() => client.models.retrieve("none"), OpenAI.NotFoundError);
  });
  await t.step("responses: whole, streaming, continued, read, deleted, all on one engine", async () => {
    for (let round = 0; round < 6; round++) {
      const { data: first, response } = await client.responses.create({ model: "m", input: `Hi ${round}` })
        .withResponse();
      const home = response.headers.get("x-mock-engine");
      const next = await client.responses.create({ model: "m", input: "more", previous_response_id: first.id })
        .withResponse();
      assertEquals(next.response.headers.get("x-mock-engine"), home);
      const stream = await client.responses.create({
        model: "m",
        input: "more",
        previous_response_id: next.data.id,
        stream: true,
      });
      let last: OpenAI.Responses.Response | undefined;
      for await (const event of stream) if (event.type === "response.completed") last = event.response;
      assertEquals(last?.previous_response_id, next.data.id);
      assertEquals((await client.responses.retrieve(last!.id)).id, last!.id);
      await client.responses.delete(last!.id);
      await assertRejects(() => client.responses.retrieve(last!.id), OpenAI.NotFoundError);
    }
    await assertRejects(() => client.responses.retrieve("resp_unknown"), OpenAI.NotFoundError, "not known here");
  });
  await t.step("Anthropic messages with Anthropic's own SDK", async () => {
    const anthropic = new Anthropic({ baseURL: gateway.origin, apiKey: "none", maxRetries: 0 });
    const prompt = { model: "m", max_tokens: 5, messages: [{ role: "user" as const, content: "Hi" }] };
    const message = await anthropic.messages.create(prompt);
    assertEquals(message.usage.output_tokens, 2);
    const streamed = await anthropic.messages.stream(prompt).finalMessage();
    assertEquals(streamed.content, message.content);
    assert((await anthropic.messages.countTokens(prompt)).input_tokens > 0);
    const wrong = await assertRejects(
      () => anthropic.messages.create({ ...prompt, model: "none" }),
      Anthropic.NotFoundError,
    );
    assertEquals((wrong.error as { error: { type: string } }).error.type, "not_found_error");
  });
  await t.step("rerank, score, tokenize, detokenize", async () => {
    for (const path of ["/rerank", "/v1/rerank", "/v2/rerank"]) {
      const { status, body } = await call(path, { model: "m", query: "q", documents: ["a", "b"] });
      assertEquals([status, body.results.length], [200, 2]);
    }
    for (const path of ["/score", "/v1/score"]) {
      const { body } = await call(path, { model: "m", text_1: "a", text_2: ["b", "c"] });
      assertEquals(body.data.length, 2);
    }
    assertEquals((await call("/tokenize", { model: "m", prompt: "12345678" })).body.count, 3);
    assertEquals(typeof (await call("/detokenize", { model: "m", tokens: [1, 2] })).body.prompt, "string");
  });
  await t.step("unknown paths and methods", async () => {
    const unknown = await call("/v1/nothing", {});
    assertEquals([unknown.status, unknown.body.error.code], [404, "route_not_found"]);
    validate("ErrorResponse", unknown.body);
    const wrong: [string, string, string][] = [
      ["/v1/chat/completions", "GET", "POST"],
      ["/v1/embeddings", "PUT", "POST"],
      ["/v1/models", "DELETE", "GET"],
      ["/v1/models/m", "PUT", "GET"],
      ["/v1/responses/resp_1", "PUT", "GET, DELETE"],
      ["/v1/chat/completions", "OPTIONS", "POST"],
    ];
    for (const [path, method, allow] of wrong) {
      const { status, headers, body } = await call(path, undefined, method);
      assertEquals([status, headers.get("allow"), body.error.code], [405, allow, "method_not_allowed"]);
    }
    const health = await fetch(`${gateway.origin}/health`);
    assertEquals([health.status, await health.text()], [200, ""]);
  });
  await gateway.settled();
});

Deno.test("/v1/models and answers are right with an engine down", async () => {
  await using engines = startEngines(1, { models: ["m"], speed: 20 });
  const gone = await startEngineProcess();
  await using gateway = await startTestGateway([gone, ...engines]);
  await gone.kill();
  const models = async () => (await (await fetch(`${gateway.origin}/v1/models`)).json()).data;
  assertEquals((await models()).map(({ id }: { id: string }) => id), ["m"]);
  const before = await models();
  for (let i = 0; i < 8; i++) {
    const response = await post(gateway.origin, chat("x", { max_tokens: 1 }));
    assertEquals([response.status, (await response.json()).object], [200, "chat.completion"]);
  }
  assertEquals(await models(), before);
});

Deno.test("LoRA: an adapter is a model by the engines' lists or the config, and goes where it is held", async () => {
  await using holders = startEngines(1, { speed: 20, models: ["m"], adapters: ["sql"] });
  await using others = startEngines(3, { speed: 20, models: ["m"], adapters: ["sql"] });
  await using gateway = await startTestGateway([...others, ...holders], {
    probes: { metrics_interval_ms: 50 },
    model_mapping_rule: {
      m: {
        rules: [
          { backend: "vllm", cluster: "c" },
          {
            backend: "vllm",
            cluster: "c",
            headers: [{ key: "x-style", value: "verse" }],
            subset: [{ lora: "poet" }],
          },
        ],
      },
    },
  });
  const list = async () =>
    (await (await fetch(`${gateway.origin}/v1/models`)).json()).data.map((
      { id, parent }: { id: string; parent?: string },
    ) => `${id}<${parent ?? ""}`);
  assertEquals(await list(), ["m<", "poet<m"]);
  const ask = (model: string, content: string) =>
    post(gateway.origin, JSON.stringify({ model, max_tokens: 1, messages: [{ role: "user", content }] }));
  // Nobody knows it yet; so the engines are asked what they have.
  const early = await ask("sql", "too early");
  assertEquals([early.status, (await early.json()).error.code], [404, "model_not_found"]);
  await until(async () => (await list()).includes("sql<m"), "the adapter is listed");
  assertEquals(await list(), ["m<", "sql<m", "poet<m"]);
  // Somebody else uses the adapter on one engine; its metrics tell.
  const holder = `127.0.0.1:${holders[0].address.port}`;
  await (await fetch(`http://${holder}/v1/chat/completions`, {
    method: "POST",
    body: JSON.stringify({ model: "sql", max_tokens: 1, messages: [{ role: "user", content: "warm" }] }),
  })).text();
  const held = async () => {
    const view = (await gateway.endpoints()).find(({ port }) => port === holders[0].address.port);
    return (view as unknown as { adapters: string[] }).adapters;
  };
  await until(async () => (await held()).includes("sql"), "the adapter is held");
  for (let i = 0; i < 8; i++) {
    const response = await ask("sql", `question ${i}`);
    assertEquals([response.status, response.headers.get("x-mock-engine")], [200, holder]);
    assertEquals((await response.json()).model, "sql");
  }
  await gateway.settled();
});

Deno.test("LoRA at run time: adapters go to the engines that list them, from when they are loaded to when they are not", async () => {
  await using engines = startEngines(4, { speed: 50, models: ["m"] });
  await using gateway = await startTestGateway(engines, { probes: { models_interval_ms: 200 } });
  const ask = async (content: string) => {
    const response = await post(gateway.origin, chat(content, { model: "ada", max_tokens: 1 }));
    await response.body?.cancel();
    return response.status;
  };
  const listed = async () =>
    (await (await fetch(`${gateway.origin}/v1/models`)).json()).data.some(({ id }: { id: string }) => id === "ada");
  const post200 = async (i: number, path: string) => {
    const url = `http://127.0.0.1:${engines[i].address.port}${path}`;
    const response = await fetch(url, { method: "POST", body: JSON.stringify({ lora_name: "ada" }) });
    await response.body?.cancel();
    assertEquals(response.status, 200);
  };
  assertEquals(await ask("nobody has it"), 404);
  for (const i of [1, 3]) await post200(i, "/v1/load_lora_adapter");
  await until(listed, "the adapter is listed");
  const before = engines.map(({ model }) => model.promptTokensTotal);
  const statuses = await Promise.all(Array.from({ length: 60 }, (_, i) => ask(`question ${i}`)));
  assertEquals(statuses, Array(60).fill(200));
  assertEquals(engines.map(({ model }, i) => model.promptTokensTotal > before[i]), [false, true, false, true]);
  // One loses it: its 404 goes on to the other, and is the reason to look again.
  await post200(1, "/v1/unload_lora_adapter");
  assertEquals(await Promise.all(Array.from({ length: 12 }, (_, i) => ask(`again ${i}`))), Array(12).fill(200));
  await post200(3, "/v1/unload_lora_adapter");
  await until(async () => !await listed(), "the adapter is not listed any more");
  assertEquals(await ask("nobody has it"), 404);
  await gateway.settled();
});

Deno.test("aliases and the wish for usage are spliced into the body, every other byte stays", async () => {
  await using server = startRawServer(() => ({
    writes: [bytes("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}")],
    then: "keep",
  }));
  await using gateway = await startTestGateway([server], {
    probes: { enabled: false },
    model_mapping_rule: {
      m: { rules: [{ backend: "openai", cluster: "c" }] },
      alias: { rules: [{ backend: "openai", cluster: "c", target_model: "org/real" }] },
    },
  });
  const rest = '"messages":[{"content":"\\u00e9 é","role":"user"}], "x":{"model":"m","stream_options":1}';
  const sent: [string, string][] = [
    [`{ "model" :"m", ${rest} }`, `{ "model" :"m", ${rest} }`],
    [`{ "model" :"alias", ${rest} }`, `{ "model" :"org/real", ${rest} }`],
    [
      `{"model":"m","stream":true,${rest}}`,
      `{"stream_options":{"include_usage":true},"model":"m","stream":true,${rest}}`,
    ],
    [
      `{"model":"alias","stream":true,"stream_options": {"a": 1, "include_usage":false} ,${rest}}`,
      `{"model":"org/real","stream":true,"stream_options": {"a":1,"include_usage":true} ,${rest}}`,
    ],
    [
      `{"model":"m","stream":true,"stream_options":{"include_usage":true},${rest}}`,
      `{"model":"m","stream":true,"stream_options":{"include_usage":true},${rest}}`,
    ],
  ];
  for (const [body, wanted] of sent) {
    await (await post(gateway.origin, body)).text();
    const request = server.requests.at(-1)!;
    assertEquals(
      new TextDecoder().decode(Uint8Array.from(request.slice(request.indexOf("\r\n\r\n") + 4), (c) => c.charCodeAt(0))),
      wanted,
    );
  }
});
