// SPDX-License-Identifier: Apache-2.0
import { assert, assertEquals, assertRejects } from "@std/assert";
import OpenAI from "openai";
import { post, startTestGateway } from "../support/gateway.ts";
import { grpcStatus, startMockTriton } from "../support/mock_triton.ts";
import { until } from "../support/until.ts";
import { responseValidator } from "../support/openapi.ts";

const validate = responseValidator();

for (const protocol of ["grpc", "http"] as const) {
  Deno.test({
    name: `Triton over ${protocol}: chat and completions, streaming or not, parameters, usage, errors`,
    // The gRPC library keeps timers and sockets of its own for a moment after its channels are closed.
    sanitizeOps: false,
    sanitizeResources: false,
    fn: async (t) => {
      await using triton = await startMockTriton();
      const rule = {
        backend: "triton",
        cluster: "c",
        triton: {
          protocol,
          model: "tensorrt_llm_bls",
          chat_template:
            "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}",
          bos_token: "<s>",
          stop: ["</s>"],
        },
      };
      await using gateway = await startTestGateway([{ address: triton[protocol] }], {
        probes: { enabled: false },
        workers: 1,
        timeouts: { stream_idle_ms: 3_000, first_byte_ms: 3_000 },
        model_mapping_rule: { m: { rules: [rule] } },
      });
      const client = new OpenAI({ baseURL: `${gateway.origin}/v1`, apiKey: "none", maxRetries: 0 });
      const messages = [{ role: "system" as const, content: "Be brief." }, {
        role: "user" as const,
        content: "Count é",
      }];

      await t.step("whole chat", async () => {
        const answer = await client.chat.completions.create({
          model: "m",
          messages,
          max_tokens: 9,
          temperature: 0.5,
          stop: ["x"],
        });
        assertEquals(answer.choices[0].message.content, "one two three");
        assertEquals(answer.choices[0].finish_reason, "stop");
        assertEquals(answer.usage?.completion_tokens, protocol === "grpc" ? 3 : 4);
        validate("CreateChatCompletionResponse", answer);
        const { text_input, max_tokens, stream, temperature, stop_words, model } = triton.requests.at(-1)!;
        assertEquals(text_input, "<s>[system] Be brief.\n[user] Count é\n[assistant]");
        assertEquals([model, max_tokens, stream, temperature], ["tensorrt_llm_bls", 9, false, 0.5]);
        assertEquals(stop_words, ["</s>", "x"]);
      });
      await t.step("streaming chat, with and without usage", async () => {
        for (const include_usage of [true, false]) {
          const stream = await client.chat.completions.create({
            model: "m",
            messages,
            max_tokens: 3,
            stream: true,
            stream_options: { include_usage },
          });
          let text = "";
          let finish: string | null = null;
          let usage: OpenAI.CompletionUsage | null | undefined;
          for await (const chunk of stream) {
            validate("CreateChatCompletionStreamResponse", chunk);
            text += chunk.choices[0]?.delta.content ?? "";
            finish = chunk.choices[0]?.finish_reason ?? finish;
            usage = chunk.usage ?? usage;
          }
          assertEquals([text, finish], ["one two three", "length"]);
          assertEquals(usage?.completion_tokens, include_usage ? 3 : undefined);
          assertEquals(triton.requests.at(-1)!.stream, true);
        }
        assertEquals(await gateway.metric("aigw_completion_tokens_total") > 0, true);
      });
      await t.step("completions, raw outputs and the engine's own counts", async () => {
        triton.behaviour = { words: ["é", "ü"], raw: true, counts: true };
        const whole = await client.completions.create({ model: "m", prompt: "Once", seed: 7, top_p: 0.5 });
        validate("CreateCompletionResponse", whole);
        assertEquals(whole.choices[0].text, "éü");
        assertEquals(
          [whole.usage?.prompt_tokens, whole.usage?.completion_tokens],
          [17, 5],
        );
        assertEquals(triton.requests.at(-1)!.text_input, "Once");
        assertEquals(Number(triton.requests.at(-1)!.random_seed), 7);
        let text = "";
        for await (const chunk of await client.completions.create({ model: "m", prompt: "Once", stream: true })) {
          text += chunk.choices[0]?.text ?? "";
        }
        assertEquals(text, "éü");
      });
      await t.step("an error first is a status, an error later an event", async () => {
        triton.behaviour = { words: ["one"], refuse: protocol === "grpc" ? grpcStatus.INVALID_ARGUMENT : 400 };
        await assertRejects(
          () => client.chat.completions.create({ model: "m", messages }),
          OpenAI.BadRequestError,
          "refused by the model",
        );
        triton.behaviour = { words: ["one"], refuse: protocol === "grpc" ? grpcStatus.RESOURCE_EXHAUSTED : 429 };
        await assertRejects(() => client.chat.completions.create({ model: "m", messages }), OpenAI.RateLimitError);
        triton.behaviour = { words: ["one", "two"], errorAt: 1 };
        const broken = await post(gateway.origin, JSON.stringify({ model: "m", messages, stream: true }));
        const text = await broken.text();
        assert(broken.status === 200 || broken.status === 502, text);
        assert(text.includes("the model failed"), text);
      });
      await t.step("what such an engine cannot do is refused with the field's name", async () => {
        triton.behaviour = { words: ["one"] };
        const wrong: [Record<string, unknown>, string][] = [
          [{ n: 2 }, "n"],
          [{ temperature: "hot" }, "temperature"],
          [{ max_tokens: 0 }, "max_tokens"],
          [{ stop: [3] }, "stop"],
          [{ messages: [{ role: "user", content: [{ type: "image_url", image_url: {} }] }] }, "messages[0].content"],
        ];
        for (const [more, param] of wrong) {
          const response = await post(gateway.origin, JSON.stringify({ model: "m", messages, ...more }));
          const { error } = await response.json();
          assertEquals([response.status, error.param], [400, param]);
        }
        const embeddings = await fetch(`${gateway.origin}/v1/embeddings`, {
          method: "POST",
          body: '{"model":"m","input":"x"}',
        });
        assertEquals((await embeddings.json()).error.code, "invalid_request");
      });
      if (protocol === "grpc") {
        await t.step(
          "a silent engine times out, a client that leaves cancels the call, a dead one is 502",
          async () => {
            triton.behaviour = { words: ["one", "two"], stallAt: 0 };
            const silent = await post(gateway.origin, JSON.stringify({ model: "m", messages }));
            assertEquals([silent.status, (await silent.json()).error.code], [504, "upstream_timeout"]);
            triton.behaviour = { words: ["one", "two"], stallAt: 1 };
            const before = triton.cancelled;
            const leaving = await post(gateway.origin, JSON.stringify({ model: "m", messages, stream: true }));
            const reader = leaving.body!.getReader();
            await reader.read();
            await reader.cancel();
            await until(() => triton.cancelled > before, "the call is cancelled");
          },
        );
      }
      await gateway.settled();
    },
  });
}

Deno.test({
  name: "Triton with vLLM behind it: its parameters, why it ended, what it counted; and a model that is not there",
  sanitizeOps: false,
  sanitizeResources: false,
  fn: async () => {
    await using triton = await startMockTriton();
    const rule = { backend: "triton", cluster: "c", triton: { model: "llama", model_backend: "vllm" } };
    await using gateway = await startTestGateway([{ address: triton.grpc }], {
      probes: { enabled: false },
      workers: 1,
      model_mapping_rule: { m: { rules: [rule] } },
    });
    const ask = async (more: Record<string, unknown>) => {
      const body = { model: "m", messages: [{ role: "user", content: "x" }], ...more };
      const response = await post(gateway.origin, JSON.stringify(body));
      return { status: response.status, text: await response.text() };
    };
    triton.behaviour = { words: ["one", "two"], counts: "parts", finish: "length" };
    const whole = JSON.parse((await ask({ max_tokens: 9, top_p: 0.5, seed: 3, stop: "x" })).text);
    assertEquals(whole.choices[0].finish_reason, "length");
    const { sampling_parameters, return_finish_reason, return_num_output_tokens, ...others } = triton.requests.at(-1)!;
    assertEquals(JSON.parse(sampling_parameters as string), { top_p: 0.5, seed: 3, max_tokens: 9, stop: ["x"] });
    assertEquals([return_finish_reason, return_num_output_tokens, "max_tokens" in others], [true, true, false]);
    const stream = await ask({ stream: true, stream_options: { include_usage: true } });
    assert(stream.text.includes('"finish_reason":"length"'), stream.text);
    assert(
      stream.text.includes('"usage":{"prompt_tokens":17,"completion_tokens":4,"total_tokens":21}'),
      "what the parts counted is added up",
    );
    triton.behaviour = { words: ["one"] };
    assertEquals(JSON.parse((await ask({})).text).usage.estimated, true);
    const refused = await ask({ tools: [{ type: "function", function: { name: "f" } }] });
    assertEquals([refused.status, JSON.parse(refused.text).error.param], [400, "tools"]);
    const details = "Request for unknown model: 'llama' is not found";
    triton.behaviour = { words: [], refuse: grpcStatus.UNAVAILABLE, details };
    assertEquals((await ask({})).status, 404);
    const [{ state, failures }] = await gateway.endpoints() as unknown as { state: string; failures: number }[];
    assertEquals([state, failures], ["available", 0]);
    await gateway.settled();
  },
});
