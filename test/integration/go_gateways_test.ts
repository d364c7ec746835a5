// SPDX-License-Identifier: Apache-2.0
// Beside gateways that know engines by IPv4 address alone and hash prompts as Go does.

import { assertEquals } from "@std/assert";
import { startMockEngine } from "../../src/mock/server.ts";
import { LONG_LEASE, startCenterProcess, startPlainCenter } from "../support/center.ts";
import { post, startTestGateway } from "../support/gateway.ts";
import { spreadOf } from "../support/mixed_fleet.ts";
import { GoGateway } from "../support/go_gateway.ts";
import { Random, seed } from "../support/seed.ts";
import { until } from "../support/until.ts";

Deno.test({
  name: "prefixes and loads are found both ways beside a gateway like Go's",
  // Engines of their own addresses: only Linux has all of 127.0.0.0/8 on its loopback.
  ignore: Deno.build.os !== "linux",
  async fn() {
    await using stack = new AsyncDisposableStack();
    const engines = [2, 3, 4, 5].map((last) => {
      const engine = startMockEngine({ address: { hostname: `127.0.0.${last}`, port: 0 }, instant: true });
      stack.defer(() => engine.stop());
      return engine;
    });
    const center = stack.use(await startCenterProcess(LONG_LEASE));
    const ours = stack.use(
      await startTestGateway(engines, {
        metadata_center: { host: "127.0.0.1", port: center.port, go_prefixes: true, stale_after_ms: 600_000 },
      }),
    );
    const go = new GoGateway(center.origin, "c");
    const random = new Random(seed);
    const chat = (i: number) => [
      { role: "system", content: `<case ${i}> & more` },
      { role: "user", content: Array.from({ length: 400 }, () => random.below(1e9).toString(36)).join(" ") },
    ];
    const hostOf = (endpoint: string | null) => endpoint!.split(":")[0];

    for (let i = 0; i < 20; i++) {
      const messages = chat(i);
      const response = await post(ours.origin, JSON.stringify({ model: "m", messages, max_tokens: 1 }));
      await response.text();
      const engine = hostOf(response.headers.get("x-aigw-endpoint"));
      const chunks = go.hashes(messages).length;
      await until(async () => (await go.cached(messages)).get(engine) === chunks, `Go finds chat ${i} at ${engine}`);
    }

    for (let i = 0; i < 20; i++) {
      const messages = chat(20 + i);
      const engine = random.pick(engines).address.hostname;
      await go.save(messages, engine);
      const explained = async () => {
        const body = JSON.stringify({ model: "m", messages });
        return await (await fetch(`${ours.admin}/explain`, { method: "POST", body })).json();
      };
      const whole = go.hashes(messages).length - 1;
      await until(async () => {
        const { candidates } = await explained();
        const warm = candidates.filter((one: { cached_chunks: number }) => one.cached_chunks >= whole);
        return warm.length === 1 && hostOf(warm[0].endpoint) === engine;
      }, `ours finds chat ${20 + i} at ${engine}`);
      const response = await post(ours.origin, JSON.stringify({ model: "m", messages, max_tokens: 1 }));
      await response.text();
      assertEquals(hostOf(response.headers.get("x-aigw-endpoint")), engine);
    }

    for (let i = 0; i < 7; i++) await go.begin(`go-${i}`, "127.0.0.3", 1_000);
    await until(async () => {
      const { endpoints } = await (await fetch(`${ours.admin}/endpoints`)).json();
      const seen = endpoints.map((one: { address: string; remote_in_flight: number }) => [
        one.address,
        one.remote_in_flight,
      ]);
      return JSON.stringify(seen.sort()) ===
        JSON.stringify([["127.0.0.2", 0], ["127.0.0.3", 7], ["127.0.0.4", 0], ["127.0.0.5", 0]]);
    }, "ours sees what Go has begun");
    for (let i = 0; i < 7; i++) await go.end(`go-${i}`);
    await until(async () => {
      const loads = [...(await go.load()).values()];
      return loads.every(({ requests, promptBytes }) => requests === 0 && promptBytes === 0);
    }, "nothing is left");
  },
});

const CENTERS: Record<string, () => Promise<AsyncDisposable & { readonly port: number }>> = {
  "our center": () => startCenterProcess(LONG_LEASE),
  "a center of the documented calls alone": () => Promise.resolve(startPlainCenter()),
};

for (const [kind, start] of Object.entries(CENTERS)) {
  Deno.test({
    name: `two gateways of ours and two like Go's spread requests as one would (${kind})`,
    ignore: Deno.build.os !== "linux",
    async fn() {
      await using center = await start();
      const random = new Random(seed);
      const fleet = { centerPort: center.port, ours: 2, go: 2, engines: 8, burst: 1, rounds: 6, random };
      assertEquals(await spreadOf(fleet), Array(8).fill(3));
    },
  });
}
