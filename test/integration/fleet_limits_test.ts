// SPDX-License-Identifier: Apache-2.0
// Limits over two gateways: they hold through the metadata center, and are split evenly when it is away.

import { assert, assertEquals } from "@std/assert";
import { LONG_LEASE, startCenterProcess } from "../support/center.ts";
import { chat, post, startEngines, startTestGateway, type TestGateway } from "../support/gateway.ts";
import { withinOneMinute } from "../support/minute.ts";
import { until } from "../support/until.ts";

const LIMIT = 2_000;
const PER_REQUEST = 20;

interface Asked {
  status: number;
  limit: number;
  left: number;
}

/** One request of a tenant; `left` is what the gateway says is left of the limit. */
async function ask(gateway: TestGateway, tenant: string, tokens: number): Promise<Asked> {
  const response = await post(gateway.origin, chat("x", { max_tokens: tokens }), {
    headers: { "x-aigw-tenant": tenant },
  });
  await response.text();
  const { status, headers } = response;
  if (status !== 200) assertEquals([status, headers.get("x-aigw-reason")], [429, "rate_limited"]);
  const field = (name: string) => Number(headers.get(`x-ratelimit-${name}-output-tokens`));
  return { status, limit: field("limit"), left: field("remaining") };
}

Deno.test("limits over two gateways hold within 10 %, whoever the requests come through, and are split without the center", () =>
  withinOneMinute(async (check) => {
    await using engines = startEngines(2, { speed: 50 });
    await using center = await startCenterProcess(LONG_LEASE);
    const config = {
      // On a busy machine the center may take its time, as long as it is there.
      metadata_center: {
        host: "127.0.0.1",
        port: center.port,
        stale_after_ms: 5_000,
        update_stats_timeout_ms: 10_000,
        fetch_metric_timeout_ms: 10_000,
      },
      tenancy: { trust_headers: true },
      tenants: ["gold", "silver"].map((name) => ({ name, limits: { output_tokens_per_minute: LIMIT } })),
    };
    await using first = await startTestGateway(engines, config);
    await using second = await startTestGateway(engines, config);
    // Each knows of the other, and of the center, once what it may use alone is the whole limit again.
    for (const gateway of [first, second]) {
      await until(async () => (await ask(gateway, "silver", 1)).limit === LIMIT, "the center is heard of");
    }

    const gateways = [first, second];
    // All at once, in turns: what one took, the other hears of before it goes on.
    let tokens = 0;
    let heard = 0;
    for (let refused = 0, round = 0; refused < 2; heard = tokens) {
      assert(round++ < 300, `in 300 rounds only ${tokens} of ${LIMIT} tokens`);
      refused = 0;
      for (const gateway of gateways) {
        let left = NaN;
        await until(
          async () => {
            check();
            ({ left } = await ask(gateway, "gold", LIMIT + 1));
            return left <= Math.max(0, LIMIT - heard); // up to a tenth more may be taken
          },
          () => `gateway ${gateways.indexOf(gateway)} knows of ${heard} of ${tokens} tokens; ${left} are left, it says`,
        );
        const answers = await Promise.all(Array.from({ length: 10 }, () => ask(gateway, "gold", PER_REQUEST)));
        const taken = answers.filter(({ status }) => status === 200).length;
        tokens += PER_REQUEST * taken;
        if (taken === 0 && tokens >= 0.85 * LIMIT) refused++;
      }
      assert(tokens <= 1.1 * LIMIT, `${tokens} of ${LIMIT} tokens`);
    }
    console.log(`two gateways: ${tokens} tokens of ${LIMIT}`);

    await center.kill();
    for (const gateway of [first, second]) {
      await until(async () => (await ask(gateway, "silver", 1)).limit === LIMIT / 2, "it takes its half of the limit");
    }
  }));
