// SPDX-License-Identifier: Apache-2.0
import { assert } from "@std/assert";
import { post, sleep, startEngines, startTestGateway } from "../support/gateway.ts";
import { Random, seed } from "../support/seed.ts";

function words(random: Random, count: number): string {
  return Array.from({ length: count }, () => random.below(2 ** 30).toString(36)).join(" ");
}

Deno.test("conversations stay where their cache is: at least 90 % of follow-up turns", async () => {
  const random = new Random(seed);
  await using engines = startEngines(4);
  await using gateway = await startTestGateway(engines);
  let stayed = 0;
  let followUps = 0;
  const converse = async (): Promise<void> => {
    const messages = [{ role: "user", content: words(random, 1_000) }];
    let before: string | null = null;
    for (let turn = 0; turn < 10; turn++) {
      const response = await post(
        gateway.origin,
        JSON.stringify({ model: "m", messages, stream: true, max_tokens: 32 }),
      );
      const engine = response.headers.get("x-mock-engine");
      await response.text();
      if (before !== null) {
        followUps++;
        if (engine === before) stayed++;
      }
      before = engine;
      await sleep(50 + random.below(150));
      messages.push({ role: "assistant", content: words(random, 20) }, { role: "user", content: words(random, 20) });
    }
  };
  await Promise.all(Array.from({ length: 20 }, converse));
  console.log(`${stayed} of ${followUps} follow-up turns stayed (${(100 * stayed / followUps).toFixed(1)} %)`);
  assert(stayed / followUps >= 0.9, `${stayed} of ${followUps} follow-up turns stayed`);
  await gateway.settled();
});

Deno.test("cold prompts at once spread evenly: max/mean at most 1.3", async () => {
  const random = new Random(seed);
  await using engines = startEngines(4, { speed: 10 });
  await using gateway = await startTestGateway(engines);
  await Promise.all(Array.from({ length: 200 }, async () => {
    const messages = [{ role: "user", content: words(random, 100) }];
    const response = await post(gateway.origin, JSON.stringify({ model: "m", messages, stream: true, max_tokens: 4 }));
    await response.text();
  }));
  const counts = (await gateway.endpoints()).map(({ dispatched }) => dispatched);
  const ratio = Math.max(...counts) / (200 / 4);
  console.log(`200 cold prompts: ${counts.join(" ")}, max/mean ${ratio.toFixed(2)}`);
  assert(ratio <= 1.3, `${counts}`);
  await gateway.settled();
});
