// SPDX-License-Identifier: Apache-2.0
// What real engines showed, against mock engines that do the same: hang, are paused, die inside, have few slots.

import { assert, assertEquals } from "@std/assert";
import { chat, post, startEngines, startTestGateway, type TestGateway } from "../support/gateway.ts";
import { until } from "../support/until.ts";

/** Sends requests, so many at once, and returns their statuses. */
async function send(gateway: TestGateway, count: number, atOnce: number, more: Record<string, unknown> = {}) {
  const statuses: number[] = [];
  let next = 0;
  const client = async () => {
    while (next < count) {
      const response = await post(gateway.origin, chat(`question ${next++}`, { max_tokens: 4, ...more }));
      const text = await response.text();
      statuses.push(text.includes('"error"') ? 599 : response.status);
    }
  };
  await Promise.all(Array.from({ length: atOnce }, client));
  return statuses;
}

const stateOf = async (gateway: TestGateway, port: number) =>
  (await gateway.endpoints()).find((one) => one.port === port)!.state;

Deno.test("an engine that hangs loses nobody: its requests move, and it is left alone", async () => {
  for (const stream of [true, false]) {
    await using engines = startEngines(2, { speed: 20 });
    await using gateway = await startTestGateway(engines, {
      workers: 1,
      probes: { enabled: false },
      outliers: { silence_ms: 500, eject_ms: 600_000 },
    });
    assertEquals(await send(gateway, 12, 6, { stream }), Array(12).fill(200));
    engines[0].pause();
    assertEquals(await send(gateway, 60, 6, { stream }), Array(60).fill(200));
    await until(async () => await stateOf(gateway, engines[0].address.port) === "ejected", "it is ejected");
    assert(await gateway.metric("aigw_suspicions_total") > 0);
    engines[0].resume();
    await gateway.settled();
  }
});

Deno.test("an engine that says that it is paused gets nothing until it is not", async () => {
  await using engines = startEngines(2, { speed: 20 });
  await using gateway = await startTestGateway(engines, { probes: { models_interval_ms: 50 } });
  const { port } = engines[0].address;
  const tell = async (path: string) => {
    await (await fetch(`http://127.0.0.1:${port}${path}`, { method: "POST" })).body?.cancel();
  };
  await tell("/pause");
  await until(async () => await stateOf(gateway, port) === "unhealthy", "the pause is seen");
  const before = engines[0].model.promptTokensTotal;
  assertEquals(await send(gateway, 20, 5), Array(20).fill(200));
  assertEquals(engines[0].model.promptTokensTotal, before);
  await tell("/resume");
  await until(async () => await stateOf(gateway, port) === "available", "it serves again");
});

Deno.test("an engine that dies inside costs nobody whose answer had not begun", async () => {
  await using engines = startEngines(2, { speed: 1 });
  await using gateway = await startTestGateway(engines, {
    workers: 1,
    retry_budget: { min_per_second: 1_000 },
    outliers: { silence_ms: 600_000 },
  });
  const long = (i: number) => post(gateway.origin, chat(`question ${i}`, { max_tokens: 40 }));
  const waiting = Array.from({ length: 60 }, (_, i) => long(i));
  await until(() => engines[0].model.running > 5, "the engine is at work");
  engines[0].control.die();
  const statuses = await Promise.all(waiting.map(async (one) => {
    const response = await one;
    await response.body?.cancel();
    return response.status;
  }));
  assertEquals(statuses, Array(60).fill(200));
  await until(async () => await stateOf(gateway, engines[0].address.port) !== "available", "it is out");
  await gateway.settled();
});

Deno.test("a burst of short requests does not pile up in engines with few slots", async () => {
  const slots = 8;
  await using engines = startEngines(2, { speed: 2, profile: { maxRunning: slots } });
  await using gateway = await startTestGateway(engines, {
    probes: { metrics_interval_ms: 20 },
    outliers: { silence_ms: 600_000 },
  });
  let mostWaiting = 0;
  const watching = setInterval(() => {
    for (const { model } of engines) mostWaiting = Math.max(mostWaiting, model.waiting);
  }, 1);
  const statuses = await Promise.all(
    Array.from({ length: 200 }, (_, i) => post(gateway.origin, chat(`short ${i}`, { max_tokens: 20 }))).map(
      async (one) => {
        const response = await one;
        await response.body?.cancel();
        return response.status;
      },
    ),
  );
  clearInterval(watching);
  assertEquals(statuses, Array(200).fill(200));
  // At first nobody knows: 32 go to each, and two workers may each see room for the last places. On a busy machine all of
  // them come before the engine has begun with the first.
  assert(mostWaiting <= 32 + 2, `${mostWaiting} waited in one engine`);
  await gateway.settled();
});

Deno.test("a cluster's max_running_requests holds without metrics", async () => {
  await using engines = startEngines(1, { speed: 5, profile: { maxRunning: 100 } });
  await using gateway = await startTestGateway(engines, {
    workers: 1,
    clusters: [{
      name: "c",
      max_running_requests: 3,
      endpoints: [{ address: "127.0.0.1", port: engines[0].address.port }],
    }],
  });
  let most = 0;
  const watching = setInterval(() => most = Math.max(most, engines[0].model.running + engines[0].model.waiting), 1);
  await until(async () => (await gateway.metric("aigw_endpoint_running_requests")) === 0, "metrics have been read");
  assertEquals(await send(gateway, 30, 15, { max_tokens: 20 }), Array(30).fill(200));
  clearInterval(watching);
  assert(most <= 3, `${most} at once`);
});

/** Every late stream has a second attempt, and nothing else moves one. */
const HEDGING = {
  workers: 1,
  probes: { enabled: false },
  outliers: { silence_ms: 600_000 },
  hedge: { percent: 100, after_percentile: 90, least_ms: 50 },
};

Deno.test("a stream that is late has a second attempt elsewhere, and the first is given up", async () => {
  await using engines = startEngines(2, { speed: 20 });
  await using gateway = await startTestGateway(engines, HEDGING);
  assertEquals(await send(gateway, 30, 3, { stream: true }), Array(30).fill(200));
  assertEquals(await gateway.metric("aigw_hedges_total"), 0);
  engines[0].pause();
  // One at a time: only a second attempt can answer those that the paused engine got.
  assertEquals(await send(gateway, 20, 1, { stream: true }), Array(20).fill(200));
  const [begun, won] = [await gateway.metric("aigw_hedges_total"), await gateway.metric("aigw_hedges_won_total")];
  assert(begun > 0 && won === begun, `${won} of ${begun}`);
  engines[0].resume();
  await gateway.settled();
  await until(
    () => engines.every(({ model }) => model.running + model.waiting === 0),
    "what was given up is cancelled",
  );
});

Deno.test("a stream whose client leaves takes its second attempt along", async () => {
  await using engines = startEngines(2, { speed: 20 });
  await using gateway = await startTestGateway(engines, HEDGING);
  assertEquals(await send(gateway, 30, 3, { stream: true }), Array(30).fill(200));
  for (const engine of engines) engine.pause();
  const leaving = new AbortController();
  const asking = post(gateway.origin, chat("x", { stream: true }), { signal: leaving.signal }).then(
    async (response) => await response.text(),
    () => "left",
  );
  await until(async () => await gateway.metric("aigw_hedges_total") === 1, "the second attempt has begun");
  assertEquals((await gateway.endpoints()).map(({ in_flight }) => in_flight), [1, 1]);
  leaving.abort();
  assertEquals(await asking.catch(() => "left"), "left");
  await gateway.settled();
  for (const engine of engines) engine.resume();
});
