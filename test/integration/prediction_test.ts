// SPDX-License-Identifier: Apache-2.0
import { assert, assertEquals } from "@std/assert";
import { chat, post, startEngines, startTestGateway } from "../support/gateway.ts";
import { Random, seed } from "../support/seed.ts";
import { until } from "../support/until.ts";

Deno.test("first tokens teach the model its latency and its bytes to a token; what was learned survives a restart", async () => {
  await using engines = startEngines(1, { speed: 5 });
  const folder = await Deno.makeTempDir();
  const changes = { prediction: { state_file: `${folder}/predictors.json` }, metadata_center: { enabled: false } };
  const random = new Random(seed);
  {
    await using gateway = await startTestGateway(engines, changes);
    for (let i = 0; i < 60; i++) {
      const content = `${random.next()} ${"word ".repeat(100 + random.below(3_000))}`;
      await (await post(gateway.origin, chat(content, { stream: true, max_tokens: 1 }))).text();
    }
    await until(async () => await gateway.metric("aigw_ttft_samples_total") === 60, "60 samples are learned from");
    const ratio = await gateway.metric("aigw_prompt_bytes_per_token");
    assert(ratio > 3.5 && ratio < 4.5, `${ratio} bytes to a token`);
    const error = await gateway.metric("aigw_ttft_prediction_error_ratio");
    console.log(`relative error of TTFT predictions after 60 requests: ${error.toFixed(3)}`);
    // How good it is, is up to the machine here; the kernel's own tests bound it.
    assert(Number.isFinite(error) && error > 0, `${error}`);
  }
  const saved = JSON.parse(await Deno.readTextFile(`${folder}/predictors.json`));
  assertEquals(saved.models.m.ttft.samples, 60);
  await using again = await startTestGateway(engines, changes);
  assertEquals(await again.metric("aigw_ttft_samples_total"), 60);
  await Deno.remove(folder, { recursive: true });
});
