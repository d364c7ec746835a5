// SPDX-License-Identifier: Apache-2.0
// The gateway in front of two of llama.cpp's servers with four slots each.

import { assert, assertEquals } from "@std/assert";
import { startTestGateway } from "../support/gateway.ts";
import { until } from "../support/until.ts";
import { folderOf, startEngine } from "./engines.ts";

const { folder, why } = folderOf("llamacpp");
if (folder === undefined) console.log(`skipped: ${why}`);

Deno.test({
  name: "two real llama.cpp servers",
  ignore: folder === undefined,
  fn: async (t) => {
    await using stack = new AsyncDisposableStack();
    const engines = [];
    for (const port of [26_110, 26_111]) engines.push(stack.use(await startEngine("llamacpp", folder!, port)));
    await using gateway = await startTestGateway(engines, {
      model_mapping_rule: { tiny: { rules: [{ backend: "llamacpp", cluster: "c" }] } },
    });
    const ask = async (content: unknown, more: Record<string, unknown> = {}) => {
      const response = await fetch(`${gateway.origin}/v1/chat/completions`, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ model: "tiny", max_tokens: 16, messages: [{ role: "user", content }], ...more }),
      });
      return { status: response.status, text: await response.text() };
    };
    const views = async () =>
      await gateway.endpoints() as unknown as { state: string; failures: number; running: number; in_flight: number }[];

    await t.step("whole answers and streams", async () => {
      assertEquals((await ask("hello")).status, 200);
      const stream = await ask("hello", { stream: true });
      assert(stream.text.endsWith("data: [DONE]\n\n") && !stream.text.includes('"usage"'), stream.text.slice(-300));
    });

    await t.step("a client that sends what the model cannot do gets its 500, and ejects nobody", async () => {
      const image = [{ type: "text", text: "x" }, {
        type: "image_url",
        image_url: { url: "data:image/png;base64,AAAA" },
      }];
      const statuses = [];
      for (let i = 0; i < 20; i++) statuses.push((await ask(image)).status);
      console.log(`images: ${statuses.join(" ")}`);
      assert(statuses.every((status) => status === 500 || status === 400), `${statuses}`);
      for (const { state, failures } of await views()) {
        assert(state === "available" && failures <= 1, `${state} ${failures}`);
      }
      assertEquals((await ask("hello")).status, 200);
    });

    await t.step("a burst fills the slots of both, and no more is sent there", async () => {
      const asking = Array.from({ length: 60 }, (_, i) => ask(`question ${i}`, { max_tokens: 300, ignore_eos: true }));
      let most = 0;
      let over = false;
      const watching = (async () => {
        // At first nobody knows how many there are.
        await until(async () => (await views()).every(({ running }) => running === 4), "all slots are at work");
        await until(async () => (await views()).every(({ in_flight }) => in_flight <= 5), "what was too many is done");
        while (!over) {
          for (const { in_flight } of await views()) most = Math.max(most, in_flight);
          await new Promise((resolve) => setTimeout(resolve, 20));
        }
      })();
      const answers = await Promise.all(asking);
      over = true;
      await watching;
      console.log(`slots: at most ${most} on an engine of four`);
      assertEquals(answers.map(({ status }) => status), Array(60).fill(200));
      assert(most <= 6, `${most}`);
    });
  },
});
