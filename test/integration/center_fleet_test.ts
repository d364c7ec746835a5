// SPDX-License-Identifier: Apache-2.0
// Several gateways and their metadata center: balance, affinity, faults. AIGW_TEST_CENTER_DOWN_MS says how long the
// center is away (the gate uses a few seconds).

import { assertEquals } from "@std/assert";
import { LONG_LEASE, startCenterProcess } from "../support/center.ts";
import { post, sleep, startEngines, startTestGateway, type TestGateway } from "../support/gateway.ts";
import { heldEngine } from "../support/held_engine.ts";
import { Random, seed } from "../support/seed.ts";
import { gate, until } from "../support/until.ts";

const DOWN_MS = Number(Deno.env.get("AIGW_TEST_CENTER_DOWN_MS") ?? 4_000);

function words(random: Random, count: number): string {
  return Array.from({ length: count }, () => random.below(2 ** 30).toString(36)).join(" ");
}

function body(messages: unknown[], maxTokens: number): string {
  return JSON.stringify({ model: "m", messages, stream: true, max_tokens: maxTokens });
}

const remote = (port: number, more: Record<string, unknown> = {}) => ({
  metadata_center: { host: "127.0.0.1", port, ...more },
});
type Engines = { address: { hostname: string; port: number } }[];
const completions = (requests: readonly string[]) => requests.filter((text) => text.startsWith("POST /v1/chat")).length;

/** Some engines here answer nothing but what they are let to: they are not asked for their health. */
const UNPROBED = { probes: { enabled: false } };

/** Two gateways whose embedded centers replicate to each other. */
async function peers(engines: Engines, changes = [UNPROBED, UNPROBED] as Record<string, unknown>[]) {
  const ports = [0, 1].map(() => {
    const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const { port } = listener.addr as Deno.NetAddr;
    listener.close();
    return port;
  });
  const start = (own: number, other: number, more: Record<string, unknown>) =>
    startTestGateway(engines, {
      ...more,
      metadata_center: { listen: `127.0.0.1:${own}`, peers: [`127.0.0.1:${other}`], ...PATIENT },
    });
  return [await start(ports[0], ports[1], changes[0]), await start(ports[1], ports[0], changes[1])];
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

const eventually = (what: string, condition: () => Promise<boolean>) => until(condition, what);

/** What a gateway has in flight itself, and prompt bytes of it. */
async function ownLoad(gateway: TestGateway): Promise<{ requests: number; promptBytes: number }> {
  let [requests, promptBytes] = [0, 0];
  for (const one of await gateway.endpoints()) {
    requests += one.in_flight;
    promptBytes += one.prompt_bytes;
  }
  return { requests, promptBytes };
}

/** Waits until each of two gateways sees what the other has in flight. */
const agree = ([a, b]: TestGateway[]) =>
  eventually("each gateway sees the other's load", async () => {
    const [ownA, ownB] = [await ownLoad(a), await ownLoad(b)];
    const [seenByA, seenByB] = [await remoteLoad(a), await remoteLoad(b)];
    return JSON.stringify([ownA, ownB]) === JSON.stringify([seenByB, seenByA]);
  });

/**
 * Waits until so many requests are in flight through both gateways, all past their first token, and each knows the other's
 * part. When they were told of while they were in flight, nothing of them is still on its way after their end.
 */
const told = (gateways: TestGateway[], requests: number) =>
  eventually(`each gateway knows all ${requests} requests`, async () => {
    const own = await Promise.all(gateways.map(ownLoad));
    const seen = await Promise.all(gateways.map(remoteLoad));
    return own[0].requests + own[1].requests === requests && own[0].requests === seen[1].requests &&
      own[1].requests === seen[0].requests && [...own, ...seen].every(({ promptBytes }) => promptBytes === 0);
  });

// What is told is told in time, however busy the machine: nothing fades, no call is given up.
const PATIENT = {
  lease_ms: 600_000,
  stale_after_ms: 600_000,
  update_stats_timeout_ms: 10_000,
  fetch_metric_timeout_ms: 10_000,
};

const TOGETHER: Record<string, (engines: Engines, centerPort: number) => Promise<TestGateway[]>> = {
  "one center": (engines, port) =>
    Promise.all([0, 1].map(() => startTestGateway(engines, { ...UNPROBED, ...remote(port, PATIENT) }))),
  "replicating embedded centers": (engines) => peers(engines),
};

const waiting = async (gateway: TestGateway) => (await gateway.endpoints())[0].waiting;

Deno.test("what one gateway reads of an engine the others know without asking it, if they share it", async () => {
  await using engines = startEngines(1);
  await using center = await startCenterProcess(LONG_LEASE);
  const start = (more: Record<string, unknown>, sharing = {}) =>
    startTestGateway(engines, { ...remote(center.port, { ...PATIENT, ...sharing }), ...more });
  await using asks = await start({});
  await using hears = await start(UNPROBED);
  await using alone = await start(UNPROBED, { share_metrics: false });
  await eventually("it hears", async () => await waiting(hears) === 0);
  assertEquals([await waiting(asks), await waiting(alone)], [0, null]);
});

Deno.test("what one gateway reads of an engine goes from embedded center to embedded center", async () => {
  await using engines = startEngines(1);
  const [asks, hears] = await peers(engines, [{}, UNPROBED]);
  await using _asks = asks;
  await using _hears = hears;
  await eventually("it hears", async () => await waiting(hears) === 0);
});

for (const [kind, start] of Object.entries(TOGETHER)) {
  Deno.test(`two gateways balance like one: the second takes the engines that the first left (${kind})`, async () => {
    const end = gate();
    await using stack = new AsyncDisposableStack();
    const engines = Array.from({ length: 8 }, () => stack.use(heldEngine(() => end.opened)));
    const center = stack.use(await startCenterProcess(LONG_LEASE));
    // Every second one is configured by name: it is an engine like the others.
    const named = engines.map(({ address: { hostname, port } }, i) => ({
      address: { hostname: i % 2 === 0 ? hostname : "localhost", port },
    }));
    const gateways = await start(named, center.port);
    for (const gateway of gateways) stack.use(gateway);
    const random = new Random(seed);
    const streams: Response[] = [];
    // Without knowing of the other, half of the engines would be taken as often by chance once in 70 times a round.
    for (let round = 1; round <= 4; round++) {
      for (const gateway of gateways) {
        for (let i = 0; i < 4; i++) {
          const response = await post(gateway.origin, body([{ role: "user", content: words(random, 20) }], 8));
          streams.push(response);
          await told(gateways, streams.length);
        }
      }
      assertEquals(engines.map(({ requests }) => completions(requests)), Array(8).fill(round));
    }
    end.open();
    for (const stream of streams) await stream.text();
    await told(gateways, 0);
  });

  Deno.test(`a conversation whose turns alternate between two gateways stays on its engine (${kind})`, async () => {
    const random = new Random(seed);
    await using stack = new AsyncDisposableStack();
    let end = gate();
    const engines = Array.from({ length: 8 }, () => stack.use(heldEngine(() => end.opened)));
    const center = stack.use(await startCenterProcess(LONG_LEASE));
    const gateways = await start(engines, center.port);
    for (const gateway of gateways) stack.use(gateway);
    const explain = async (gateway: TestGateway, request: string) =>
      await (await fetch(`${gateway.admin}/explain`, { method: "POST", body: request })).json();
    for (let conversation = 0; conversation < 5; conversation++) {
      const messages = [{ role: "user", content: words(random, 2_000) }];
      let [before, chunks]: [string | null, number] = [null, 0];
      for (let turn = 0; turn < 6; turn++) {
        const gateway = gateways[turn % 2];
        const request = body(messages, 4);
        await eventually("it has heard of the prompt", async () => {
          const { candidates } = await explain(gateway, request);
          return Math.max(...candidates.map((one: { cached_chunks: number }) => one.cached_chunks)) >= chunks;
        });
        const response = await post(gateway.origin, request);
        const engine = response.headers.get("x-aigw-endpoint");
        await told(gateways, 1);
        end.open();
        await response.text();
        await told(gateways, 0);
        end = gate();
        if (before !== null) assertEquals(engine, before, `turn ${turn} of conversation ${conversation}`);
        before = engine;
        chunks = (await explain(gateway, request)).prompt.chunks - 1;
        messages.push({ role: "assistant", content: words(random, 20) }, { role: "user", content: words(random, 20) });
      }
    }
  });
}

Deno.test("the center dies under load and comes back: no request fails or waits, the remote part fades, then agrees again", async () => {
  const random = new Random(seed);
  await using engines = startEngines(4, { speed: 2 });
  const first = await startCenterProcess(LONG_LEASE);
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
  await using second = await startCenterProcess(LONG_LEASE, first.port);
  // The truth: what each gateway has in flight is what the other sees of it, once the engines stand still.
  for (const engine of engines) engine.pause();
  await eventually("all clients wait for the engines", async () => {
    const [a, b] = await Promise.all(gateways.map(ownLoad));
    return a.requests === 8 && b.requests === 8;
  });
  await agree(gateways);
  for (const engine of engines) engine.resume();
  console.log(
    `center away ${DOWN_MS} ms: ${failures.length} failures, median to the head ${
      before[before.length >> 1].toFixed(1)
    } ms before, ${during[during.length >> 1].toFixed(1)} ms during`,
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
