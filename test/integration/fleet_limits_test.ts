// SPDX-License-Identifier: Apache-2.0
// Limits over two gateways: they hold through the metadata center, and are split evenly when it is away.

import { assert, assertEquals } from "@std/assert";
import { startCenterProcess } from "../support/center.ts";
import { chat, post, sleep, startEngines, startTestGateway, type TestGateway } from "../support/gateway.ts";

const LIMIT = 4_000;
const PER_REQUEST = 20;

/** Sends as many requests as it can for a while, over both gateways; returns the tokens that were answered. */
async function flood(gateways: TestGateway[], forMs: number, share: number): Promise<number> {
  const end = performance.now() + forMs;
  let tokens = 0;
  const one = async (gateway: TestGateway) => {
    while (performance.now() < end) {
      const response = await post(gateway.origin, chat("x", { max_tokens: PER_REQUEST }), {
        headers: { "x-aigw-tenant": "gold" },
      });
      await response.text();
      if (response.status === 200) tokens += PER_REQUEST;
      else {
        assertEquals([response.status, response.headers.get("x-aigw-reason")], [429, "rate_limited"]);
        await sleep(20);
      }
    }
  };
  await Promise.all(Array.from({ length: 32 }, (_, i) => one(gateways[i / 32 < share ? 0 : 1])));
  return tokens;
}

Deno.test("limits over two gateways hold within 10 %, whoever the requests come through, and are split without the center", async () => {
  await using engines = startEngines(2, { speed: 50 });
  await using center = await startCenterProcess();
  const config = {
    metadata_center: { host: "127.0.0.1", port: center.port, stale_after_ms: 500 },
    tenancy: { trust_headers: true },
    tenants: ["gold", "silver", "copper"].map((name) => ({ name, limits: { output_tokens_per_minute: LIMIT } })),
  };
  await using first = await startTestGateway(engines, config);
  await using second = await startTestGateway(engines, config);
  await sleep(500);
  // A window of its own for each part: wait for the beginning of a minute if this one is nearly over.
  if (Date.now() % 60_000 > 45_000) await sleep(60_500 - Date.now() % 60_000);
  const used = await flood([first, second], 3_000, 0.5);
  console.log(`two gateways at once: ${used} tokens of ${LIMIT}`);
  assert(used <= 1.1 * LIMIT && used >= 0.85 * LIMIT, `${used} of ${LIMIT} tokens`);

  await center.kill();
  await sleep(1_200);
  // Each has its half, of which the minute's use is taken already.
  const share = async (gateway: TestGateway) => {
    const response = await post(gateway.origin, chat("x", { max_tokens: 1 }), {
      headers: { "x-aigw-tenant": "silver" },
    });
    await response.text();
    return Number(response.headers.get("x-ratelimit-limit-output-tokens"));
  };
  assertEquals([await share(first), await share(second)], [LIMIT / 2, LIMIT / 2]);
});
