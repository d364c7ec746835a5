// SPDX-License-Identifier: Apache-2.0
// The gateway in front of two KServe servers on the official protocol buffers and Google's gRPC.

import { assert, assertEquals, assertRejects } from "@std/assert";
import OpenAI from "openai";
import { startTestGateway } from "../support/gateway.ts";
import { folderOf, startEngine } from "./engines.ts";

const { folder, why } = folderOf("kserve");
if (folder === undefined) console.log(`skipped: ${why}`);

Deno.test({
  name: "two KServe servers, models of TensorRT-LLM's and of vLLM's backend",
  ignore: folder === undefined,
  fn: async (t) => {
    await using stack = new AsyncDisposableStack();
    const engines = [];
    for (const port of [26_300, 26_310]) engines.push(stack.use(await startEngine("kserve", folder!, port)));
    const rule = (triton: Record<string, unknown>) => ({ rules: [{ backend: "triton", cluster: "c", triton }] });
    await using gateway = await startTestGateway([], {
      clusters: [{
        name: "c",
        endpoints: engines.map(({ address: { hostname, port } }) => ({
          address: hostname,
          port,
          health_port: port + 1,
          metrics_port: port + 1,
        })),
      }],
      model_mapping_rule: {
        trt: rule({ token_counts: true }),
        plain: rule({}),
        vllm: rule({ model: "vllm_model", model_backend: "vllm" }),
        ghost: rule({ model: "ghost" }),
      },
    });
    const client = new OpenAI({ baseURL: `${gateway.origin}/v1`, apiKey: "none", maxRetries: 0 });
    const messages = [{ role: "user" as const, content: "one two three four five six" }];

    for (const model of ["trt", "plain", "vllm"]) {
      await t.step(`${model}: a whole answer and a stream say the same, with their counts`, async () => {
        const whole = await client.chat.completions.create({ model, messages, max_tokens: 4 });
        const [{ message, finish_reason }] = whole.choices;
        assert(message.content!.trim().split(/\s+/).length === 4, message.content!);
        assertEquals(finish_reason, "length");
        let text = "";
        let usage: OpenAI.CompletionUsage | null | undefined;
        let finished: string | null = null;
        const stream = await client.chat.completions.create({
          model,
          messages,
          max_tokens: 4,
          stream: true,
          stream_options: { include_usage: true },
        });
        for await (const chunk of stream) {
          text += chunk.choices[0]?.delta.content ?? "";
          finished = chunk.choices[0]?.finish_reason ?? finished;
          usage = chunk.usage ?? usage;
        }
        assertEquals([text.trim(), finished], [message.content!.trim(), "length"]);
        if (model === "plain") assert(usage!.prompt_tokens > 0, "estimated");
        else assertEquals([whole.usage!.completion_tokens, usage!.completion_tokens], [4, 4]);
      });
    }

    await t.step("a model that is not there is that rule's fault: the endpoints go on", async () => {
      for (let i = 0; i < 20; i++) {
        await assertRejects(() => client.chat.completions.create({ model: "ghost", messages }), OpenAI.APIError);
      }
      const states = (await gateway.endpoints()).map(({ state }) => state);
      assertEquals(states, ["available", "available"]);
      await client.chat.completions.create({ model: "trt", messages, max_tokens: 2 });
    });

    await t.step("60 streams, 20 at once, over both; all end and nothing is left", async () => {
      let whole = 0;
      const body = { model: "trt", messages, max_tokens: 6, stream: true as const };
      await Promise.all(Array.from({ length: 20 }, async () => {
        for (let i = 0; i < 3; i++) {
          let finished: string | null = null;
          for await (const chunk of await client.chat.completions.create(body)) {
            finished = chunk.choices[0]?.finish_reason ?? finished;
          }
          if (finished !== null) whole++;
        }
      }));
      assertEquals(whole, 60);
      const views = await gateway.endpoints();
      console.log(`requests by engine: ${views.map(({ dispatched }) => dispatched).join(" ")}`);
      assert(views.every(({ dispatched }) => dispatched > 5));
      await gateway.settled();
    });
  },
});
