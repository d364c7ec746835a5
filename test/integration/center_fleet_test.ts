// SPDX-License-Identifier: Apache-2.0
// Several gateways and their metadata center: balance, affinity, faults. AIGW_TEST_CENTER_DOWN_MS says how long the
// center is away (the gate uses a few seconds).

import { assert, assertEquals } from "@std/assert";
import type { MockEngine } from "../../src/mock/server.ts";
import { startCenterProcess } from "../support/center.ts";
import { post, sleep, startEngines, startTestGateway, type TestGateway } from "../support/gateway.ts";
import { Random, seed } from "../support/seed.ts";

const DOWN_MS = Number(Deno.env.get("AIGW_TEST_CENTER_DOWN_MS") ?? 4_000);

function words(random: Random, count: number): string {
  return Array.from({ length: count }, () => random.below(2 ** 30).toString(36)).join(" ");
}

function body(messages: unknown[], maxTokens: number): string {
  return JSON.stringify({ model: "m", messages, stream: true, max_tokens: maxTokens });
}

const remote = (port: number) => ({ metadata_center: { host: "127.0.0.1", port } });

/** Two gateways whose embedded centers replicate to each other. */
async function peers(engines: MockEngine[]): Promise<[TestGateway, TestGateway]> {
  const ports = [0, 1].map(() => {
    const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const { port } = listener.addr as Deno.NetAddr;
    listener.close();
    return port;
  });
  const start = (own: number, other: number) =>
    startTestGateway(engines, { metadata_center: { listen: `127.0.0.1:${own}`, peers: [`127.0.0.1:${other}`] } });
  return [await start(ports[0], ports[1]), await start(ports[1], ports[0])];
}

async function remoteLoad(gateway: TestGateway): Promise<{ requests: number; promptBytes: number }> {
  const { endpoints } = await (await fetch(`${gateway.admin}/endpoints`)).json();
  let [requests, promptBytes] = [0, 0];
  for (const one of endpoints) {
    requests += one.remote_in_flight;
    promptBytes += one.remote_prompt_bytes;
  }
  return { requests, promptBytes };
}

async function eventually(what: string, condition: () => Promise<boolean>, ms = 5_000): Promise<void> {
  for (const end = Date.now() + ms; Date.now() < end; await sleep(25)) if (await condition()) return;
  throw new Error(`It did not happen: ${what}`);
}

/** Bursts over the gateways; the mean over bursts of max/mean of the prompt bytes that each engine was given. */
async function imbalance(gateways: TestGateway[], engines: MockEngine[], random: Random): Promise<number> {
  const ratios: number[] = [];
  for (let burst = 0; burst < 12; burst++) {
    const given = new Map<string, number>();
    await Promise.all(Array.from({ length: 64 }, async (_, i) => {
      await sleep(random.below(60));
      const text = words(random, 20 + random.below(random.chance(0.2) ? 800 : 100));
      const response = await post(gateways[i % gateways.length].origin, body([{ role: "user", content: text }], 8));
      const engine = response.headers.get("x-mock-engine")!;
      given.set(engine, (given.get(engine) ?? 0) + text.length);
      await response.text();
    }));
    const loads = engines.map(({ address }) => given.get(`127.0.0.1:${address.port}`) ?? 0);
    ratios.push(Math.max(...loads) / (loads.reduce((a, b) => a + b, 0) / loads.length));
  }
  return ratios.reduce((a, b) => a + b, 0) / ratios.length;
}

Deno.test("two gateways balance like one: with one center, and with replicating embedded centers", async () => {
  const measure = async (start: (engines: MockEngine[]) => Promise<TestGateway[]>): Promise<number> => {
    await using engines = startEngines(8, { speed: 4 });
    const gateways = await start(engines);
    const ratio = await imbalance(gateways, engines, new Random(seed));
    for (const gateway of gateways) {
      await gateway.settled();
      await eventually("no remote load is left", async () => (await remoteLoad(gateway)).requests === 0);
    }
    for (const gateway of gateways) await gateway[Symbol.asyncDispose]();
    return ratio;
  };
  await using center = await startCenterProcess();
  // Who comes when is up to the machine: a round that it disturbed is repeated.
  let figures = "";
  for (let round = 0; round < 3; round++) {
    const one = await measure(async (engines) => [await startTestGateway(engines)]);
    const shared = await measure((engines) =>
      Promise.all([0, 1].map(() => startTestGateway(engines, remote(center.port))))
    );
    const replicated = await measure((engines) => peers(engines));
    figures = `one gateway ${one.toFixed(3)}, two with one center ${shared.toFixed(3)}, two with peers ${
      replicated.toFixed(3)
    }`;
    console.log(`max/mean of prompt bytes: ${figures}`);
    if (shared <= 1.15 * one && replicated <= 1.15 * one) return;
  }
  throw new Error(`not within 1.15 of one gateway in three rounds: ${figures}`);
});

for (const kind of ["one center", "replicating embedded centers"]) {
  Deno.test(`a conversation whose turns alternate between two gateways stays on its engine (${kind})`, async () => {
    const random = new Random(seed);
    await using engines = startEngines(8, { speed: 4 });
    await using center = await startCenterProcess();
    const gateways = kind === "one center"
      ? await Promise.all([0, 1].map(() => startTestGateway(engines, remote(center.port))))
      : await peers(engines);
    let [stayed, followUps] = [0, 0];
    await Promise.all(Array.from({ length: 8 }, async () => {
      const messages = [{ role: "user", content: words(random, 600) }];
      let before: string | null = null;
      for (let turn = 0; turn < 8; turn++) {
        const response = await post(gateways[turn % 2].origin, body(messages, 16));
        const engine = response.headers.get("x-mock-engine");
        await response.text();
        if (before !== null) followUps++;
        if (before === engine) stayed++;
        before = engine;
        messages.push({ role: "assistant", content: words(random, 20) }, { role: "user", content: words(random, 20) });
        await sleep(150);
      }
    }));
    console.log(`${kind}: ${stayed} of ${followUps} follow-up turns stayed`);
    assert(stayed >= 0.9 * followUps, `${stayed} of ${followUps}`);
    for (const gateway of gateways) await gateway[Symbol.asyncDispose]();
  });
}

Deno.test("the center dies under load and comes back: no request fails or waits, the remote part fades, then agrees again", async () => {
  const random = new Random(seed);
  await using engines = startEngines(4, { speed: 2 });
  const first = await startCenterProcess();
  const changes = { metadata_center: { host: "127.0.0.1", port: first.port, stale_after_ms: 300, fade_ms: 700 } };
  const gateways = await Promise.all([0, 1].map(() => startTestGateway(engines, changes)));
  let running = true;
  const latencies: number[] = [];
  const failures: number[] = [];
  const clients = Array.from({ length: 16 }, async (_, i) => {
    while (running) {
      const started = performance.now();
      const response = await post(gateways[i % 2].origin, body([{ role: "user", content: words(random, 50) }], 40));
      latencies.push(performance.now() - started);
      if (response.status !== 200) failures.push(response.status);
      await response.text();
    }
  });
  await eventually(
    "both see the other's load",
    async () => (await Promise.all(gateways.map(remoteLoad))).every(({ requests }) => requests > 0),
  );
  latencies.length = 0;
  await sleep(1_000);
  const before = latencies.toSorted((a, b) => a - b);
  await first.kill();
  await eventually(
    "the remote part fades",
    async () => (await Promise.all(gateways.map(remoteLoad))).every(({ requests }) => requests === 0),
  );
  latencies.length = 0;
  await sleep(DOWN_MS);
  const during = latencies.toSorted((a, b) => a - b);
  await using second = await startCenterProcess("", first.port);
  const back = Date.now();
  // The truth: what each gateway has in flight is what the other sees of it.
  await eventually("the figures agree with the truth", async () => {
    const [a, b] = await Promise.all(gateways.map(async (gateway) => ({
      own: (await gateway.endpoints()).reduce((sum, { in_flight }) => sum + in_flight, 0),
      seen: (await remoteLoad(gateway)).requests,
    })));
    return a.own > 0 && b.own > 0 && Math.abs(a.seen - b.own) <= 1 && Math.abs(b.seen - a.own) <= 1;
  });
  console.log(
    `center away ${DOWN_MS} ms: ${failures.length} failures, median to the head ${
      before[before.length >> 1].toFixed(1)
    } ms before, ${during[during.length >> 1].toFixed(1)} ms during; agreed ${Date.now() - back} ms after its return`,
  );
  running = false;
  await Promise.all(clients);
  assertEquals(failures, []);
  for (const gateway of gateways) await gateway.settled();
  await eventually(
    "no remote load is left",
    async () =>
      (await Promise.all(gateways.map(remoteLoad))).every(({ requests, promptBytes }) =>
        requests === 0 && promptBytes === 0
      ),
  );
  const { data } = await (await fetch(`${second.origin}/v1/load/stats?cluster=c`)).json();
  assertEquals(
    (data ?? []).map((
      one: { queued_req_num: number; prompt_length: number },
    ) => [one.queued_req_num, one.prompt_length]).flat().every((n: number) => n === 0),
    true,
  );
  for (const gateway of gateways) await gateway[Symbol.asyncDispose]();
});
