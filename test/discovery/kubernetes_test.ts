// SPDX-License-Identifier: Apache-2.0
// Endpoints from Kubernetes against a stand-in for its API server: what objects come to, how a watch is taken up again, and
// random changes with a server that cuts and forgets.

import { assert, assertEquals, assertRejects } from "@std/assert";
import { kubernetesSchema, kubernetesSourceSchema } from "../../src/config/kubernetes.ts";
import { endpointKey, type EndpointSpec } from "../../src/discovery/discovery.ts";
import { kubernetesDiscovery } from "../../src/discovery/kubernetes/discovery.ts";
import { KubernetesStandIn, PATHS, pod, pool, slice } from "../support/kubernetes_stand_in.ts";
import { Random, seed } from "../support/seed.ts";
import { makeCertificate } from "../support/tls.ts";
import { until } from "../support/until.ts";

/** Watches as the control plane does: what fails is watched anew. */
class Watched implements AsyncDisposable {
  readonly endpoints = new Map<string, EndpointSpec>();
  error: Error | undefined;
  updates = 0;
  failures = 0;
  synced = 0;
  readonly #abort = new AbortController();
  readonly #over: Promise<void>;

  constructor(source: Record<string, unknown>, server: string, more: Record<string, unknown> = {}) {
    const config = kubernetesSchema.parse({ api_server: server, ...more });
    const discovery = kubernetesDiscovery("c", kubernetesSourceSchema.parse(source), config);
    this.#over = (async () => {
      while (!this.#abort.signal.aborted) {
        try {
          for await (const update of discovery.watch(this.#abort.signal)) {
            this.updates++;
            this.error = undefined;
            if (update.kind === "synced") this.synced++;
            else if (update.kind === "remove") { for (const id of update.ids) this.endpoints.delete(endpointKey(id)); }
            else if (update.kind !== "does_not_exist") {
              if (update.kind === "reset") this.endpoints.clear();
              for (const spec of update.endpoints) this.endpoints.set(endpointKey(spec), spec);
            }
          }
        } catch (error) {
          this.error = error as Error;
          this.failures++;
          await new Promise((resolve) => setTimeout(resolve, 20));
        }
      }
    })();
  }

  get names(): string[] {
    return [...this.endpoints.keys()].sort();
  }

  async knows(...names: string[]): Promise<void> {
    await until(() => String(this.names) === String(names), () => `${names}; it knows ${this.names}, ${this.error}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#abort.abort();
    await this.#over;
  }
}

Deno.test("kubernetes service: ready endpoints of every slice, by the port's name or number", async () => {
  await using server = new KubernetesStandIn();
  server.put(PATHS.slices(), {
    metadata: { name: "s-1", labels: { "kubernetes.io/service-name": "engines" } },
    addressType: "IPv4",
    endpoints: [
      {
        addresses: ["10.0.0.1"],
        conditions: { ready: true },
        zone: "a",
        nodeName: "n1",
        targetRef: { kind: "Pod", name: "p" },
      },
      { addresses: ["10.0.0.2"], conditions: { ready: false } },
      { addresses: ["10.0.0.3"], conditions: {} },
    ],
    ports: [{ name: "metrics", port: 9_000 }, { name: "http", port: 8_000 }],
  });
  server.put(PATHS.slices(), slice("other", "another", ["10.9.9.9"]));
  server.put(PATHS.slices("elsewhere"), slice("far", "engines", ["10.8.8.8"]));
  {
    await using watched = new Watched({ service: "engines", port: "http", labels: { tier: "one" } }, server.url);
    await watched.knows("10.0.0.1:8000", "10.0.0.3:8000");
    assertEquals(watched.endpoints.get("10.0.0.1:8000")!.labels, {
      "topology.kubernetes.io/zone": "a",
      "kubernetes.io/hostname": "n1",
      pod: "p",
      tier: "one",
    });
    // One endpoint in two slices is there until both have let it go.
    server.put(PATHS.slices(), slice("s-2", "engines", ["10.0.0.3", "10.0.0.4"]));
    await watched.knows("10.0.0.1:8000", "10.0.0.3:8000", "10.0.0.4:8000");
    server.delete(PATHS.slices(), "s-1");
    await watched.knows("10.0.0.3:8000", "10.0.0.4:8000");
    server.put(PATHS.slices(), { ...slice("s-2", "engines", []), endpoints: null });
    await watched.knows();
    assertEquals(server.lists, 1);
  }
  await using numbered = new Watched({ service: "engines", namespace: "elsewhere", port: 9_999 }, server.url);
  await numbered.knows("10.8.8.8:9999");
  await using first = new Watched({ service: "another" }, server.url);
  await first.knows("10.9.9.9:8000");
});

Deno.test("kubernetes service: of two families one is told, and what is about to end is not", async () => {
  await using server = new KubernetesStandIn();
  const six = { ...slice("six", "engines", ["fd00::1"]), addressType: "IPv6" };
  server.put(PATHS.slices(), six);
  await using watched = new Watched({ service: "engines" }, server.url);
  await watched.knows("[fd00::1]:8000");
  server.put(PATHS.slices(), slice("four", "engines", ["10.0.0.1"]));
  await watched.knows("10.0.0.1:8000");
  server.put(PATHS.slices(), { ...six, ports: [{ name: "http", port: 8_001 }] });
  server.put(PATHS.slices(), {
    ...slice("four", "engines", []),
    endpoints: [
      { addresses: ["10.0.0.1"], conditions: { ready: true, serving: true, terminating: true } },
      { addresses: ["10.0.0.2"], conditions: { ready: true, terminating: false } },
    ],
  });
  await watched.knows("10.0.0.2:8000");
});

Deno.test("kubernetes service: an endpoint that two slices tell has the labels of the one that is left", async () => {
  await using server = new KubernetesStandIn();
  const inZone = (name: string, zone: string) => ({
    ...slice(name, "engines", []),
    endpoints: [{ addresses: ["10.0.0.1"], conditions: { ready: true }, zone }],
  });
  server.put(PATHS.slices(), inZone("s-1", "a"));
  await using watched = new Watched({ service: "engines" }, server.url);
  const zone = () => watched.endpoints.get("10.0.0.1:8000")?.labels["topology.kubernetes.io/zone"];
  await until(() => zone() === "a", "the first one's");
  server.put(PATHS.slices(), inZone("s-2", "b"));
  await until(() => zone() === "b", "the second one's");
  server.delete(PATHS.slices(), "s-2");
  await until(() => zone() === "a", "the first one's again");
});

Deno.test("kubernetes: a server that ends every watch at once, or forgets at once, is not asked without a pause", async () => {
  await using server = new KubernetesStandIn();
  server.put(PATHS.slices(), slice("s", "engines", ["10.0.0.1"]));
  for (const ends of ["empty", "forgets"] as const) {
    server.ending = ends;
    const { lists, watches } = server;
    await using watched = new Watched({ service: "engines" }, server.url);
    await watched.knows("10.0.0.1:8000");
    await new Promise((resolve) => setTimeout(resolve, 300));
    // The test's own watcher comes back every 20 ms, the gateway's after a growing pause.
    assert(server.watches - watches < 100, `${server.watches - watches} watches`);
    assert(server.lists - lists < 100, `${server.lists - lists} lists`);
  }
});

Deno.test("kubernetes pods: those that are ready and not about to end, with their labels", async () => {
  await using server = new KubernetesStandIn();
  const app = { app: "vllm" };
  server.put(PATHS.pods(), pod("a", { ...app, gpu: "h100" }, "10.0.0.1"));
  server.put(PATHS.pods(), pod("b", app, "10.0.0.2", { ready: false }));
  server.put(PATHS.pods(), pod("c", { app: "other" }, "10.0.0.3"));
  server.put(PATHS.pods(), { metadata: { name: "d", labels: app }, status: { phase: "Pending" } });
  await using watched = new Watched({ pods: app, port: 8_000 }, server.url);
  await watched.knows("10.0.0.1:8000");
  assertEquals(watched.endpoints.get("10.0.0.1:8000")!.labels, { app: "vllm", gpu: "h100", pod: "a" });
  server.put(PATHS.pods(), pod("b", app, "10.0.0.2"));
  await watched.knows("10.0.0.1:8000", "10.0.0.2:8000");
  server.put(PATHS.pods(), pod("a", { ...app, gpu: "b200" }, "10.0.0.1"));
  await until(() => watched.endpoints.get("10.0.0.1:8000")?.labels.gpu === "b200", "its labels have changed");
  server.put(PATHS.pods(), pod("a", app, "10.0.0.1", { ending: true }));
  await watched.knows("10.0.0.2:8000");
  server.put(PATHS.pods(), pod("b", { app: "other" }, "10.0.0.2"));
  await watched.knows();
});

Deno.test("kubernetes InferencePool: its pods at each target port, as selector and ports change", async () => {
  await using server = new KubernetesStandIn();
  server.put(PATHS.pods("ai"), pod("a", { model: "one" }, "10.0.0.1"));
  server.put(PATHS.pods("ai"), pod("b", { model: "two" }, "10.0.0.2"));
  await using watched = new Watched({ inference_pool: "pool", namespace: "ai" }, server.url);
  await until(() => watched.error !== undefined, "there is none yet");
  assertEquals(watched.error!.message, "there is no InferencePool ai/pool");
  server.put(PATHS.pools("ai"), pool("pool", { model: "one" }, [8_000, 8_001]));
  await watched.knows("10.0.0.1:8000", "10.0.0.1:8001");
  server.put(PATHS.pools("ai"), pool("pool", { model: "two" }, [8_000]));
  await watched.knows("10.0.0.2:8000");
  server.put(PATHS.pods("ai"), pod("c", { model: "two" }, "10.0.0.3"));
  await watched.knows("10.0.0.2:8000", "10.0.0.3:8000");
  // Without a pool its last pods stay, and it says so.
  server.delete(PATHS.pools("ai"), "pool");
  await until(() => watched.error !== undefined, "it is gone");
  assertEquals(watched.names, ["10.0.0.2:8000", "10.0.0.3:8000"]);
});

Deno.test("kubernetes: a watch goes on where it ended; what is too old is listed anew", async () => {
  await using server = new KubernetesStandIn();
  const put = (last: number) => server.put(PATHS.slices(), slice("s", "engines", [`10.0.0.${last}`]));
  put(1);
  await using watched = new Watched({ service: "engines" }, server.url);
  await watched.knows("10.0.0.1:8000");
  for (const last of [2, 3]) {
    server.cut();
    put(last);
    await watched.knows(`10.0.0.${last}:8000`);
  }
  assertEquals(server.lists, 1, "nothing was listed again");
  // A bookmark says how far it is, though nothing of its own has changed.
  for (let i = 0; i < 5; i++) server.put(PATHS.pods(), pod(`p${i}`, {}, "10.1.1.1"));
  server.bookmark();
  const { updates } = watched;
  await new Promise((resolve) => setTimeout(resolve, 50));
  server.expire();
  put(4);
  await watched.knows("10.0.0.4:8000");
  assertEquals(server.lists, 1, "the bookmark was young enough");
  assertEquals(watched.updates, updates + 2, "one came, one went");
  for (const told of [false, true]) {
    put(5);
    await watched.knows("10.0.0.5:8000");
    put(6);
    server.cut();
    put(7);
    server.expire(told);
    await watched.knows("10.0.0.7:8000");
  }
  assertEquals(watched.failures, 0, "none of this is a failure");
});

Deno.test("kubernetes: a server that fails changes nothing; its words are told", async () => {
  await using server = new KubernetesStandIn();
  server.put(PATHS.slices(), slice("s", "engines", ["10.0.0.1"]));
  await using watched = new Watched({ service: "engines" }, server.url);
  await watched.knows("10.0.0.1:8000");
  server.failing = 403;
  server.expire();
  await until(() => watched.error !== undefined, "it fails");
  assertEquals(watched.error!.message, `403 of ${PATHS.slices()}: it is broken`);
  assertEquals(watched.names, ["10.0.0.1:8000"]);
  server.failing = undefined;
  server.put(PATHS.slices(), slice("s", "engines", ["10.0.0.2"]));
  await watched.knows("10.0.0.2:8000");
});

Deno.test("kubernetes: 1,203 objects in pages, over HTTPS, with a token that changes", async () => {
  const certificate = makeCertificate();
  if (!certificate) return console.log("skipped: openssl is not installed");
  const [cert, key] = await Promise.all([Deno.readTextFile(certificate.cert), Deno.readTextFile(certificate.key)]);
  await using server = new KubernetesStandIn({ cert, key });
  const token = await Deno.makeTempFile();
  await Deno.writeTextFile(token, "first\n");
  const addresses = Array.from({ length: 1_203 }, (_, i) => `10.0.${i >> 8}.${i & 255}`);
  for (const [i, address] of addresses.entries()) server.put(PATHS.slices(), slice(`s${i}`, "engines", [address]));
  await using watched = new Watched({ service: "engines" }, server.url, {
    token_file: token,
    ca_file: certificate.cert,
  });
  await until(() => watched.synced === 1, () => `all are known: ${watched.error}`);
  assertEquals(watched.names, addresses.map((address) => `${address}:8000`).sort());
  assertEquals([server.lists, watched.updates], [3, 2]);
  await Deno.writeTextFile(token, "second\n");
  await until(() => server.watches > 0, "it watches");
  server.cut();
  await until(() => server.tokens.at(-1) === "Bearer second", "the new token is used");
  assertEquals(server.tokens[0], "Bearer first");
  await Deno.remove(token);
});

Deno.test("kubernetes: outside of a pod a server has to be named", async () => {
  if (Deno.env.get("KUBERNETES_SERVICE_HOST")) return console.log("skipped: this is a pod");
  const source = kubernetesSourceSchema.parse({ service: "engines" });
  const watching = kubernetesDiscovery("c", source, kubernetesSchema.parse({})).watch(new AbortController().signal)[
    Symbol.asyncIterator
  ]();
  await assertRejects(() => watching.next(), Error, "there is no Kubernetes API server");
});

Deno.test("kubernetes: 400 random changes, cuts and losses of history end in what there is", async () => {
  await using server = new KubernetesStandIn();
  const random = new Random(seed);
  await using watched = new Watched({ service: "engines" }, server.url);
  const truth = new Map<string, string[]>();
  for (let i = 0; i < 400; i++) {
    const name = `s${random.below(12)}`;
    if (random.chance(0.2)) {
      server.delete(PATHS.slices(), name);
      truth.delete(name);
    } else {
      const addresses = Array.from({ length: random.below(6) }, () => `10.0.0.${random.below(40)}`);
      server.put(PATHS.slices(), slice(name, "engines", addresses));
      truth.set(name, addresses);
    }
    if (random.chance(0.1)) server.cut();
    if (random.chance(0.05)) server.expire(random.chance(0.5));
    if (random.chance(0.05)) server.bookmark();
    if (random.chance(0.3)) await new Promise((resolve) => setTimeout(resolve, random.below(5)));
    if (i % 60 > 0) continue;
    // Some cuts are surely of a watch: another one follows.
    const before = server.watches;
    server.cut();
    await until(() => server.watches > before, "it watches again");
  }
  const all = [...new Set([...truth.values()].flat())].map((address) => `${address}:8000`).sort();
  await watched.knows(...all);
  assert(server.watches > 5);
});
