// SPDX-License-Identifier: Apache-2.0
// One vLLM of two data-parallel ranks behind one port: each request is answered by the rank that was chosen, by the engine's
// own count, and metrics are of each rank.

import { assert, assertEquals } from "@std/assert";
import { startTestGateway } from "../support/gateway.ts";
import { Random, seed } from "../support/seed.ts";
import { until } from "../support/until.ts";
import { folderOf, startEngine } from "./engines.ts";

const { folder, why } = folderOf("vllm");
if (folder === undefined) console.log(`skipped: ${why}`);
const FLAGS = [
  "--data-parallel-size",
  "2",
  "--api-server-count",
  "1",
  "--enable-prefix-caching",
  "--enable-prompt-tokens-details",
];

Deno.test({
  name: "a real vLLM of two data-parallel ranks",
  ignore: folder === undefined,
  fn: async () => {
    await using engine = await startEngine("vllm", folder!, 26_030, { VLLM_SERVER_DEV_MODE: "1" }, FLAGS);
    await using gateway = await startTestGateway([], {
      workers: 1,
      clusters: [{
        name: "c",
        endpoints: [{ address: engine.address.hostname, port: engine.address.port }],
        data_parallel_ranks: 2,
      }],
      model_mapping_rule: { tiny: { rules: [{ backend: "vllm", cluster: "c" }] } },
    });
    const random = new Random(seed);
    const words = (count: number) => Array.from({ length: count }, () => random.below(10_000)).join(" ");
    type Message = { role: string; content: string };
    const conversations = Array.from({ length: 6 }, () => ({
      messages: [{ role: "user", content: words(400) }] as Message[],
      ranks: new Set<string>(),
    }));
    let [found, asked] = [0, 0];
    const chosen = [0, 0];
    for (let turn = 0; turn < 5; turn++) {
      for (const { messages, ranks } of conversations) {
        const response = await fetch(`${gateway.origin}/v1/chat/completions`, {
          method: "POST",
          headers: { "content-type": "application/json" },
          body: JSON.stringify({ model: "tiny", messages, max_tokens: 8 }),
        });
        const { usage, choices, error } = await response.json();
        assertEquals(response.status, 200, JSON.stringify(error));
        const endpoint = response.headers.get("x-aigw-endpoint")!;
        ranks.add(endpoint);
        chosen[endpoint.endsWith("#1") ? 1 : 0]++;
        if (turn > 0) {
          found += usage.prompt_tokens_details?.cached_tokens ?? 0;
          asked += usage.prompt_tokens;
        }
        messages.push({ role: "assistant", content: choices[0].message.content }, { role: "user", content: words(10) });
      }
    }
    const stayed = conversations.filter(({ ranks }) => ranks.size === 1).length;
    const page = await (await fetch(`${engine.url}/metrics`)).text();
    const answered = chosen.map((_, rank) =>
      page.split("\n").filter((line) => /^vllm:request_success_total\{/.test(line) && line.includes(`engine="${rank}"`))
        .reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(" "))), 0)
    );
    console.log(
      `ranks: chosen ${chosen}, answered ${answered}; ${stayed} of ${conversations.length} conversations stayed, ` +
        `${found} of ${asked} prompt tokens of later turns found in caches`,
    );
    assertEquals(answered, chosen);
    assert(chosen.every((count) => count > 0));
    await until(
      async () => (await gateway.endpoints()).every(({ waiting }) => waiting === 0),
      "each rank's metrics are known",
    );
  },
});
