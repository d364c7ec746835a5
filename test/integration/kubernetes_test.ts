// SPDX-License-Identifier: Apache-2.0
// A fleet that Kubernetes tells: pods of an InferencePool come, go and are relabelled under load and nobody notices; its
// InferenceObjectives are priorities; a server that is gone changes nothing.

import { assert, assertEquals } from "@std/assert";
import { startMockEngine } from "../../src/mock/server.ts";
import { chat, post, startTestGateway } from "../support/gateway.ts";
import { KubernetesStandIn, PATHS, pod, pool } from "../support/kubernetes_stand_in.ts";
import { freePort } from "../support/machine.ts";
import { Random, seed } from "../support/seed.ts";
import { until } from "../support/until.ts";

const LABELS = { app: "engines" };
const OBJECTIVES = "/apis/inference.networking.x-k8s.io/v1alpha2/namespaces/default/inferenceobjectives";

/** Engines that are pods: one an address of the loopback, all on one port. */
async function startPods(count: number) {
  const port = freePort();
  const server = new KubernetesStandIn();
  server.put(PATHS.pools(), pool("pool", LABELS, [port]));
  const engines = Array.from(
    { length: count },
    (_, i) => startMockEngine({ address: { hostname: `127.0.0.${i + 2}`, port }, instant: true, models: ["m"] }),
  );
  const set = (i: number, more: Record<string, string> = {}, state = {}) =>
    server.put(PATHS.pods(), pod(`pod-${i}`, { ...LABELS, ...more }, `127.0.0.${i + 2}`, state));
  for (let i = 0; i < count; i++) set(i);
  const gateway = await startTestGateway([], {
    kubernetes: { api_server: server.url },
    clusters: [{ name: "c", kubernetes: [{ inference_pool: "pool" }] }],
    tenancy: { anonymous: { priority: "critical" } },
  });
  return {
    server,
    gateway,
    set,
    async [Symbol.asyncDispose]() {
      await gateway[Symbol.asyncDispose]();
      await server[Symbol.asyncDispose]();
      await Promise.all(engines.map((engine) => engine.stop()));
    },
  };
}

Deno.test("kubernetes: pods come, go and are relabelled under load, and no request fails", async () => {
  await using fleet = await startPods(5);
  const { server, gateway, set } = fleet;
  await until(async () => (await gateway.endpoints()).length === 5, "all pods are endpoints");
  const random = new Random(seed);
  let over = false;
  const statuses = new Map<number, number>();
  const clients = Array.from({ length: 8 }, async () => {
    while (!over) {
      const response = await post(gateway.origin, chat(`${random.below(20)}`));
      await response.text();
      statuses.set(response.status, (statuses.get(response.status) ?? 0) + 1);
    }
  });
  for (let i = 0; i < 60; i++) {
    // The first two are never away at once with the others.
    const which = 1 + random.below(4);
    const change = random.below(4);
    if (change === 0) server.delete(PATHS.pods(), `pod-${which}`);
    else if (change === 1) set(which, {}, { ending: true });
    else set(which, { round: String(i) });
    if (random.chance(0.1)) server.cut();
    if (random.chance(0.05)) server.expire();
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  for (let i = 0; i < 5; i++) set(i, { last: "yes" });
  await until(async () => {
    const all = await gateway.endpoints() as unknown as { labels: Record<string, string>; state: string }[];
    return all.filter(({ labels, state }) => labels.last === "yes" && state === "available").length === 5;
  }, "all are there again, with their labels");
  over = true;
  await Promise.all(clients);
  assertEquals([...statuses.keys()], [200]);
  assert(statuses.get(200)! > 100);
  await gateway.settled();
});

Deno.test("kubernetes: a server that is gone keeps the last state; the view says so", async () => {
  await using fleet = await startPods(2);
  const { server, gateway, set } = fleet;
  await until(async () => (await gateway.endpoints()).length === 2, "both are endpoints");
  server.failing = 503;
  server.expire();
  const source = () =>
    gateway.gateway.control.discoveries.view().find(({ source }) => source === "kubernetes InferencePool pool")!;
  await until(() => source().state === "failing", "the source fails");
  assert(source().error?.includes("it is broken"));
  assertEquals((await gateway.endpoints()).length, 2);
  const response = await post(gateway.origin, chat("still there"));
  assertEquals(response.status, 200);
  await response.text();
  server.failing = undefined;
  set(0, { back: "yes" });
  await until(() => source().state === "ok", "it works again");
});

Deno.test("kubernetes: InferenceObjectives of the pool are priorities by name", async () => {
  await using fleet = await startPods(1);
  const { server, gateway } = fleet;
  const objective = (name: string, priority: number | undefined, poolName = "pool") =>
    server.put(OBJECTIVES, { metadata: { name }, spec: { priority, poolRef: { name: poolName } } });
  const ask = async (name: string) => {
    const response = await post(gateway.origin, chat("hello"), { headers: { "x-gateway-inference-objective": name } });
    return { status: response.status, text: await response.text() };
  };
  objective("chat", 10);
  objective("batch-jobs", -50);
  objective("others", 5, "another-pool");
  const objectives = () => gateway.gateway.control.snapshot.config.tenancy.objectives;
  await until(() => Object.keys(objectives()).length === 2, "both are known");
  assertEquals(objectives(), { chat: 10, "batch-jobs": -50 });
  assertEquals((await ask("batch-jobs")).status, 200);
  const unknown = await ask("others");
  assertEquals(unknown.status, 400);
  assert(unknown.text.includes("batch-jobs"), unknown.text);
  server.delete(OBJECTIVES, "chat");
  objective("batch-jobs", undefined);
  await until(() => JSON.stringify(objectives()) === '{"batch-jobs":0}', "one is gone, one is of another priority");
});
