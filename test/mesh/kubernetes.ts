// SPDX-License-Identifier: Apache-2.0
// A real Kubernetes API server: our manifests as it takes them, EndpointSlices and pods as they change, the server gone and
// back, its history lost, 10,000 endpoints at once.

import { parseAll } from "@std/yaml";
import { assert, assertEquals } from "@std/assert";
import { startMockEngine } from "../../src/mock/server.ts";
import { chat, post, startTestGateway, type TestGateway } from "../support/gateway.ts";
import { freePort } from "../support/machine.ts";
import { until } from "../support/until.ts";
import { type Kubernetes, noKubernetes, startKubernetes } from "./kubernetes_process.ts";

if (noKubernetes) console.log(noKubernetes);
const test = (name: string, fn: () => Promise<void>) => Deno.test({ name, ignore: noKubernetes !== undefined, fn });

/** A definition of one of the inference extension's kinds, as far as a watcher needs it. */
function definition(group: string, version: string, kind: string, plural: string): Record<string, unknown> {
  const anything = { type: "object", "x-kubernetes-preserve-unknown-fields": true };
  return {
    apiVersion: "apiextensions.k8s.io/v1",
    kind: "CustomResourceDefinition",
    // Groups of Kubernetes' own ask for a word of approval.
    metadata: {
      name: `${plural}.${group}`,
      annotations: { "api-approved.kubernetes.io": "unapproved, a test" },
    },
    spec: {
      group,
      scope: "Namespaced",
      names: { kind, plural, singular: kind.toLowerCase() },
      versions: [{
        name: version,
        served: true,
        storage: true,
        schema: { openAPIV3Schema: { type: "object", properties: { spec: anything, status: anything } } },
      }],
    },
  };
}

/** How long the server is away. */
const LOST_MS = 60_000;
const DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const slicesOf = (namespace: string) => `/apis/discovery.k8s.io/v1/namespaces/${namespace}/endpointslices`;

async function namespace({ ask }: Kubernetes, name: string): Promise<void> {
  await ask("POST", "/api/v1/namespaces", { metadata: { name } });
}

/** An EndpointSlice of a Service; its addresses are of the range that is kept for documentation. */
function slice(name: string, service: string, addresses: readonly string[]): Record<string, unknown> {
  return {
    metadata: { name, labels: { "kubernetes.io/service-name": service } },
    addressType: "IPv4",
    endpoints: addresses.map((address) => ({ addresses: [address], conditions: { ready: true } })),
    ports: [{ name: "http", port: 8_000 }],
  };
}

const watching = (kubernetes: Kubernetes, source: Record<string, unknown>, more: Record<string, unknown> = {}) =>
  startTestGateway([], {
    kubernetes: kubernetes.config,
    probes: { enabled: false },
    clusters: [{ name: "c", kubernetes: [source] }],
    ...more,
  });

const addresses = async (gateway: TestGateway) =>
  (await gateway.endpoints()).filter((one) => !(one as unknown as { leaving: boolean }).leaving)
    .map(({ address, port }) => `${address}:${port}`).sort();

async function knows(gateway: TestGateway, ...expected: string[]): Promise<void> {
  let found: string[] = [];
  await until(async () => String(found = await addresses(gateway)) === String(expected), () => `${expected}: ${found}`);
}

test("Kubernetes takes every manifest of config/, strictly", async () => {
  await using kubernetes = await startKubernetes();
  await namespace(kubernetes, "aigw");
  const folders = ["kubernetes", "endpoint-picker"].map((name) => new URL(`../../config/${name}/`, import.meta.url));
  /** Of the second folder, what changes an object of the first. */
  const patches = new Set(["kustomization.yaml", "configmap.yaml", "deployment.yaml"]);
  const monitors = definition("monitoring.coreos.com", "v1", "ServiceMonitor", "servicemonitors");
  await kubernetes.ask("POST", DEFINITIONS, monitors);
  await kubernetes.ask("POST", DEFINITIONS, POOLS);
  const known = new Map<string, { plural: string; namespaced: boolean }>();
  const groups = [
    "/api/v1",
    "/apis/apps/v1",
    "/apis/autoscaling/v2",
    "/apis/policy/v1",
    "/apis/rbac.authorization.k8s.io/v1",
  ];
  for (const group of [...groups, "/apis/monitoring.coreos.com/v1", "/apis/inference.networking.k8s.io/v1"]) {
    let resources: { kind: string; name: string; namespaced: boolean }[] = [];
    await until(async () => {
      resources = (await kubernetes.ask("GET", group).catch(() => ({ resources: [] }))).resources as typeof resources;
      return resources.length > 0;
    }, `${group} is served`);
    for (const { kind, name, namespaced } of resources) {
      if (!name.includes("/")) known.set(kind, { plural: `${group}/@/${name}`, namespaced });
    }
  }
  let taken = 0;
  const files = folders.flatMap((folder, i) =>
    [...Deno.readDirSync(folder)].filter(({ name }) => name !== "kustomization.yaml" && !(i > 0 && patches.has(name)))
      .map(({ name }) => new URL(name, folder))
  );
  for (const file of files) {
    for (const object of parseAll(await Deno.readTextFile(file)) as Record<string, unknown>[]) {
      const { kind, metadata } = object as { kind: string; metadata: { namespace?: string; name: string } };
      if (kind === "Namespace") continue; // it is there already
      const { plural, namespaced } = known.get(kind)!;
      const path = plural.replace("/@", namespaced ? `/namespaces/${metadata.namespace}` : "");
      await kubernetes.ask("POST", `${path}?dryRun=All&fieldValidation=Strict`, object);
      taken++;
    }
  }
  assert(taken >= 12, `${taken} objects`);
});

const POOLS = definition("inference.networking.k8s.io", "v1", "InferencePool", "inferencepools");

test("Kubernetes: EndpointSlices as they change, through the server's end and the loss of its history", async () => {
  await using kubernetes = await startKubernetes();
  await namespace(kubernetes, "ai");
  const { ask } = kubernetes;
  const path = slicesOf("ai");
  await ask("POST", path, slice("one", "engines", ["192.0.2.1", "192.0.2.2"]));
  await ask("POST", path, slice("other", "others", ["192.0.2.9"]));
  await using gateway = await watching(kubernetes, { service: "engines", namespace: "ai", port: "http" });
  await knows(gateway, "192.0.2.1:8000", "192.0.2.2:8000");
  await ask("POST", path, slice("two", "engines", ["192.0.2.3"]));
  await knows(gateway, "192.0.2.1:8000", "192.0.2.2:8000", "192.0.2.3:8000");
  await ask("PUT", `${path}/one`, slice("one", "engines", ["192.0.2.2"]));
  await knows(gateway, "192.0.2.2:8000", "192.0.2.3:8000");
  await kubernetes.stop();
  const view = () => gateway.gateway.control.discoveries.view().find(({ source }) => source.startsWith("kubernetes"))!;
  await until(() => view().state === "failing", "the source fails");
  await new Promise((resolve) => setTimeout(resolve, LOST_MS));
  assertEquals(await addresses(gateway), ["192.0.2.2:8000", "192.0.2.3:8000"]);
  await kubernetes.start();
  await ask("DELETE", `${path}/two`);
  await knows(gateway, "192.0.2.2:8000");
  // What it had seen is forgotten while it cannot look.
  await kubernetes.stop();
  await kubernetes.start();
  for (let i = 4; i < 8; i++) await ask("PUT", `${path}/one`, slice("one", "engines", [`192.0.2.${i}`]));
  await kubernetes.compact();
  await knows(gateway, "192.0.2.7:8000");
  assertEquals(view().state, "ok");
});

test("Kubernetes: pods of an InferencePool are endpoints while they are ready, and serve under load", async () => {
  await using kubernetes = await startKubernetes();
  await namespace(kubernetes, "ai");
  const { ask } = kubernetes;
  await ask("POST", DEFINITIONS, POOLS);
  const pools = "/apis/inference.networking.k8s.io/v1/namespaces/ai/inferencepools";
  await until(() => ask("GET", pools).then(() => true, () => false), "pools are served");
  const port = freePort();
  await ask("POST", pools, {
    apiVersion: "inference.networking.k8s.io/v1",
    kind: "InferencePool",
    metadata: { name: "pool" },
    spec: { selector: { matchLabels: { app: "engine" } }, targetPorts: [{ number: port }] },
  });
  const engines = [2, 3, 4].map((last) =>
    startMockEngine({ address: { hostname: `127.0.0.${last}`, port }, instant: true, models: ["m"] })
  );
  const pods = "/api/v1/namespaces/ai/pods";
  const start = async (last: number) => {
    const container = { name: "engine", image: "engine" };
    await ask("POST", pods, {
      metadata: { name: `pod-${last}`, labels: { app: "engine" } },
      spec: { containers: [container] },
    });
    await ready(last, true);
  };
  // What a kubelet would say.
  const ready = (last: number, is: boolean) =>
    ask("PATCH", `${pods}/pod-${last}/status`, {
      status: {
        phase: "Running",
        podIP: `127.0.0.${last}`,
        podIPs: [{ ip: `127.0.0.${last}` }],
        conditions: [{ type: "Ready", status: is ? "True" : "False" }],
      },
    });
  await start(2);
  await using gateway = await watching(kubernetes, { inference_pool: "pool", namespace: "ai" }, { probes: {} });
  await knows(gateway, `127.0.0.2:${port}`);
  let over = false;
  const statuses = new Map<number, number>();
  const clients = Array.from({ length: 4 }, async () => {
    while (!over) {
      const response = await post(gateway.origin, chat("hello"));
      await response.text();
      statuses.set(response.status, (statuses.get(response.status) ?? 0) + 1);
    }
  });
  for (let round = 0; round < 5; round++) {
    if (round === 0) await Promise.all([start(3), start(4)]);
    else await Promise.all([ready(3, true), ready(4, true)]);
    await knows(gateway, `127.0.0.2:${port}`, `127.0.0.3:${port}`, `127.0.0.4:${port}`);
    await Promise.all([ready(3, false), ready(4, false)]);
    await until(
      async () => (await gateway.endpoints()).filter(({ state }) => state === "available").length === 1,
      "one is left",
    );
  }
  await ask("PATCH", `${pods}/pod-4`, { metadata: { labels: { app: "something-else" } } });
  over = true;
  await Promise.all(clients);
  assertEquals([...statuses.keys()], [200]);
  assert(statuses.get(200)! > 50);
  await Promise.all(engines.map((engine) => engine.stop()));
});

test("Kubernetes: 10,000 endpoints at once, while workers serve (figures)", async () => {
  await using kubernetes = await startKubernetes();
  await namespace(kubernetes, "ai");
  const path = slicesOf("ai");
  const engine = startMockEngine({ address: { hostname: "127.0.0.1", port: 0 }, instant: true, models: ["m"] });
  await using gateway = await watching(kubernetes, { service: "engines", namespace: "ai" }, {
    limits: { endpoints: 16_384 },
    clusters: [{ name: "many", kubernetes: [{ service: "engines", namespace: "ai" }] }, {
      name: "c",
      endpoints: [{ address: "127.0.0.1", port: engine.address.port }],
    }],
  });
  // 192.0.2.0/24, 198.51.100.0/24 and 203.0.113.0/24 are no range of 10,000: the port tells them apart.
  const put = async (method: string, count: number) => {
    for (let i = 0; i < 100; i++) {
      const name = `s${i}`;
      const hosts = Array.from({ length: count }, (_, k) => `192.0.2.${k + 1}`);
      const body = { ...slice(name, "engines", hosts), ports: [{ name: "http", port: 8_000 + i }] };
      await kubernetes.ask(method, method === "POST" ? path : `${path}/${name}`, body);
    }
  };
  let over = false;
  let slowestMs = 0;
  const client = (async () => {
    while (!over) {
      const began = performance.now();
      await (await post(gateway.origin, chat("hello"))).text();
      slowestMs = Math.max(slowestMs, performance.now() - began);
    }
  })();
  const count = async () => (await gateway.endpoints()).length;
  for (const [method, each] of [["POST", 100], ["PUT", 50], ["PUT", 100]] as const) {
    await put(method, each);
    const began = performance.now();
    await until(async () => await count() >= 100 * each + 1, `${100 * each} endpoints`, 60_000);
    const ms = performance.now() - began;
    console.log(`${100 * each} endpoints: ${ms.toFixed(0)} ms after the last of 100 slices was written`);
  }
  over = true;
  await client;
  const delays = await gateway.metric("aigw_event_loop_delay_seconds_sum");
  const samples = await gateway.metric("aigw_event_loop_delay_seconds_count");
  console.log(
    `workers' loops: ${samples} samples, late by ${delays.toFixed(2)} s in all; the slowest answer meanwhile took ` +
      `${slowestMs.toFixed(0)} ms`,
  );
  await engine.stop();
});
