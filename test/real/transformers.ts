// SPDX-License-Identifier: Apache-2.0
// The gateway in front of two of `transformers serve`: a streaming server without `[DONE]`, without metrics.

import { assert, assertEquals } from "@std/assert";
import OpenAI from "openai";
import { startTestGateway } from "../support/gateway.ts";
import { folderOf, startEngine } from "./engines.ts";

const { folder, why } = folderOf("transformers");
if (folder === undefined) console.log(`skipped: ${why}`);

Deno.test({
  name: "two real servers of transformers",
  ignore: folder === undefined,
  fn: async (t) => {
    await using stack = new AsyncDisposableStack();
    const engines = [];
    for (const port of [26_120, 26_121]) engines.push(stack.use(await startEngine("transformers", folder!, port)));
    const name = `${folder}/model`;
    await using gateway = await startTestGateway(engines, {
      model_mapping_rule: { tiny: { rules: [{ backend: "transformers", cluster: "c", target_model: name }] } },
    });
    const client = new OpenAI({ baseURL: `${gateway.origin}/v1`, apiKey: "none", maxRetries: 0 });
    const messages = [{ role: "user" as const, content: "hello" }];

    await t.step("whole answers and streams with the official SDK", async () => {
      const whole = await client.chat.completions.create({ model: "tiny", messages, max_tokens: 8 });
      assert(whole.usage!.completion_tokens > 0);
      let finished: string | null = null;
      for await (const chunk of await client.chat.completions.create({ model: "tiny", messages, stream: true })) {
        finished = chunk.choices[0]?.finish_reason ?? finished;
      }
      assert(finished !== null);
    });

    await t.step("40 streams at once: all end, none counts as a failure", async () => {
      const ends = await Promise.all(Array.from({ length: 40 }, async (_, i) => {
        let finished: string | null = null;
        const content = `question ${i}`;
        const body = { model: "tiny", messages: [{ role: "user" as const, content }], max_tokens: 16 };
        for await (const chunk of await client.chat.completions.create({ ...body, stream: true })) {
          finished = chunk.choices[0]?.finish_reason ?? finished;
        }
        return finished;
      }));
      assert(ends.every((end) => end !== null), `${ends}`);
      const views = await gateway.endpoints() as unknown as { state: string; failures: number; dispatched: number }[];
      console.log(`requests by engine: ${views.map(({ dispatched }) => dispatched).join(" ")}`);
      for (const { state, failures, dispatched } of views) {
        assertEquals([state, failures], ["available", 0]);
        assert(dispatched > 0);
      }
      await gateway.settled();
    });
  },
});
