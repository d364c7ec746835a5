// SPDX-License-Identifier: Apache-2.0
// Endpoints and configuration of a mesh against a stand-in for its control plane, in both ways of the protocol: subsets and
// ports, what comes and goes, streams that are lost, and random changes.

import { assert, assertEquals, assertThrows } from "@std/assert";
import { ConfigError, parseConfig } from "../../src/config/load.ts";
import { xdsSchema, xdsSourceSchema } from "../../src/config/xds.ts";
import { withRoutes } from "../../src/control/xds_configuration.ts";
import { endpointKey, type EndpointSpec } from "../../src/discovery/discovery.ts";
import { XdsDiscovery } from "../../src/discovery/xds/discovery.ts";
import { watchConfigurations } from "../../src/discovery/xds/routes.ts";
import { XdsSessions } from "../../src/discovery/xds/session.ts";
import { Random, seed } from "../support/seed.ts";
import { until } from "../support/until.ts";
import { XdsStandIn } from "../support/xds_stand_in.ts";

/** Without a look at timers: the library keeps some for connections that have been given up. */
const test = (name: string, fn: () => Promise<void>) =>
  Deno.test({ name, fn, sanitizeOps: false, sanitizeResources: false });

const sessionsOf = (server: XdsStandIn, more: Record<string, unknown> = {}) =>
  new XdsSessions(xdsSchema.parse({ server: server.address, ...more }));

/** Watches as the control plane of the gateway does: what fails is watched anew. */
class Watched implements AsyncDisposable {
  endpoints = new Map<string, EndpointSpec>();
  error: Error | undefined;
  resets = 0;
  readonly #abort = new AbortController();
  readonly #over: Promise<void>;

  constructor(source: Record<string, unknown>, sessions: XdsSessions) {
    const discovery = new XdsDiscovery("c", xdsSourceSchema.parse(source), sessions);
    this.#over = (async () => {
      while (!this.#abort.signal.aborted) {
        try {
          for await (const update of discovery.watch(this.#abort.signal)) {
            this.error = undefined;
            if (update.kind !== "reset") continue;
            this.resets++;
            this.endpoints = new Map(update.endpoints.map((spec) => [endpointKey(spec), spec]));
          }
        } catch (error) {
          this.error = error as Error;
          await new Promise((resolve) => setTimeout(resolve, 20));
        }
      }
    })();
  }

  get names(): string[] {
    return [...this.endpoints.keys()].sort();
  }

  async knows(...names: string[]): Promise<void> {
    await until(
      () => this.resets > 0 && String(this.names) === String(names),
      () => `${names}; it knows ${this.names}, ${this.error}`,
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#abort.abort();
    await this.#over;
  }
}

for (const ways of [["delta", "whole"], ["whole"]] as const) {
  const name = ways.length === 1 ? "everything is told" : "changes are told";
  test(`xds (${name}): a host's endpoints, with the labels of the subsets that select them`, async () => {
    await using server = await XdsStandIn.start(ways);
    server.host("qwen.service", 80, ["10.0.0.1:8000", "10.0.0.2:8000", "10.0.0.3:8000:2"], {
      v1: ["10.0.0.1:8000"],
      v2: ["10.0.0.2:8000"],
    });
    server.host("other.service", 80, ["10.9.9.9:1"]);
    const sessions = sessionsOf(server, { node_id: "router~10.0.0.9~aigw.ns~ns.svc.cluster.local" });
    await using watched = new Watched(
      { host: "qwen.service", port: 80, subsets: { v1: { version: "one" } }, labels: { mesh: "yes" } },
      sessions,
    );
    // One that is unhealthy by the control plane's word is none.
    await watched.knows("10.0.0.1:8000", "10.0.0.2:8000");
    const place = { "topology.kubernetes.io/region": "r", "topology.kubernetes.io/zone": "z", mesh: "yes" };
    assertEquals(watched.endpoints.get("10.0.0.1:8000")!.labels, { ...place, version: "one" });
    assertEquals(watched.endpoints.get("10.0.0.2:8000")!.labels, { ...place, "subset/v2": "yes" });
    assertEquals(server.nodes[0], "router~10.0.0.9~aigw.ns~ns.svc.cluster.local");

    await using second = new Watched({ host: "other.service" }, sessions);
    await second.knows("10.9.9.9:1");
    assertEquals(server.streams, 1, "one stream for all hosts");

    server.host("qwen.service", 80, ["10.0.0.4:8000"], { v1: [], v2: ["10.0.0.4:8000"] });
    await watched.knows("10.0.0.4:8000");
    server.host("late.service", 80, ["10.0.0.5:8000"]);
    await using late = new Watched({ host: "late.service", port: 80 }, sessions);
    await late.knows("10.0.0.5:8000");
    for (const subset of ["", "v1", "v2"]) server.delete("Cluster", `outbound|80|${subset}|qwen.service`);
    await watched.knows();
    assertEquals([server.refused, second.resets], [0, 1]);
    assert(server.acknowledged > 0);
  });

  test(`xds (${name}): a control plane that is lost changes nothing, and is asked again`, async () => {
    let server = await XdsStandIn.start(ways);
    const { port } = server;
    server.host("qwen.service", 80, ["10.0.0.1:8000"]);
    await using watched = new Watched({ host: "qwen.service" }, sessionsOf(server));
    await watched.knows("10.0.0.1:8000");
    server.cut();
    await until(() => server.streams >= (ways.length === 1 ? 2 : 2), "it comes back");
    server.host("qwen.service", 80, ["10.0.0.2:8000"]);
    await watched.knows("10.0.0.2:8000");
    await server[Symbol.asyncDispose]();
    await until(() => watched.error !== undefined, "it is lost");
    assertEquals(watched.names, ["10.0.0.2:8000"]);
    server = await XdsStandIn.start(ways, port);
    server.host("qwen.service", 80, ["10.0.0.3:8000"]);
    await watched.knows("10.0.0.3:8000");
    await server[Symbol.asyncDispose]();
  });

  test(`xds (${name}): 150 random changes and cuts end in what there is`, async () => {
    await using server = await XdsStandIn.start(ways);
    const random = new Random(seed);
    await using watched = new Watched({ host: "qwen.service", port: 80 }, sessionsOf(server));
    let truth: string[] = [];
    for (let i = 0; i < 150; i++) {
      truth = Array.from({ length: random.below(5) }, () => `10.0.0.${random.below(30)}:8000`);
      server.host("qwen.service", 80, truth, random.chance(0.5) ? { v1: truth.slice(0, 1) } : {});
      if (random.chance(0.05)) server.cut();
      if (random.chance(0.3)) await new Promise((resolve) => setTimeout(resolve, random.below(5)));
    }
    await watched.knows(...[...new Set(truth)].sort());
  });
}

test("xds: an answer that comes when it is not waited for any more is nobody's", async () => {
  await using server = await XdsStandIn.start();
  server.host("qwen.service", 80, ["10.0.0.1:8000"]);
  server.delayMs = 200;
  const sessions = new XdsSessions(xdsSchema.parse({ server: server.address }), 100);
  await using watched = new Watched({ host: "qwen.service" }, sessions);
  await until(() => watched.error !== undefined, "it is given up");
  assert(watched.error!.message.endsWith("said nothing within 100 ms"));
  await new Promise((resolve) => setTimeout(resolve, 300));
  server.delayMs = 0;
  await watched.knows("10.0.0.1:8000");
  await new Promise((resolve) => setTimeout(resolve, 300)); // the last late answers
});

test("xds: one that nobody can tell apart does not take the others along", async () => {
  await using server = await XdsStandIn.start();
  server.host("good.service", 80, ["10.0.0.1:8000"]);
  for (const port of [80, 81]) server.host("bad.service", port, ["10.0.0.2:8000"]);
  const sessions = sessionsOf(server);
  await using good = new Watched({ host: "good.service" }, sessions);
  await good.knows("10.0.0.1:8000");
  await using bad = new Watched({ host: "bad.service" }, sessions);
  await until(() => bad.error !== undefined, "it says so");
  server.host("good.service", 80, ["10.0.0.3:8000"]);
  await good.knows("10.0.0.3:8000");
  assertEquals([server.streams, good.error], [1, undefined]);
});

test("xds: a subset alone; one that a host has no more is not waited for", async () => {
  await using server = await XdsStandIn.start();
  server.host("qwen.service", 80, ["10.0.0.1:8000", "10.0.0.2:8000"], { v1: ["10.0.0.1:8000"], v2: ["10.0.0.2:8000"] });
  await using watched = new Watched({ host: "qwen.service", subset: "v1" }, sessionsOf(server));
  await watched.knows("10.0.0.1:8000");
  server.delete("ClusterLoadAssignment", "outbound|80|v2|qwen.service");
  server.put("ClusterLoadAssignment", "outbound|80|v1|qwen.service", {
    cluster_name: "outbound|80|v1|qwen.service",
    endpoints: [{
      lb_endpoints: [{ endpoint: { address: { socket_address: { address: "10.0.0.9", port_value: 1 } } } }],
    }],
  });
  await watched.knows("10.0.0.9:1");
});

test("xds: a host with several ports needs to be told which", async () => {
  await using server = await XdsStandIn.start();
  server.host("qwen.service", 80, ["10.0.0.1:8000"]);
  server.host("qwen.service", 81, ["10.0.0.1:8001"]);
  await using watched = new Watched({ host: "qwen.service" }, sessionsOf(server));
  await until(() => watched.error !== undefined, "it says so");
  assertEquals(watched.error!.message, "qwen.service has the ports 80, 81: which one is not said");
  await using one = new Watched({ host: "qwen.service", port: 81 }, sessionsOf(server));
  await one.knows("10.0.0.1:8001");
});

test("xds: clusters that are not resolved by the control plane have the endpoints that they name", async () => {
  await using server = await XdsStandIn.start();
  const name = "outbound|443||api.example";
  const address = { socket_address: { address: "api.example", port_value: 443 } };
  const load_assignment = { endpoints: [{ lb_endpoints: [{ endpoint: { address } }] }] };
  server.put("Cluster", name, { name, load_assignment });
  await using watched = new Watched({ host: "api.example" }, sessionsOf(server));
  await watched.knows("api.example:443");
});

test("xds: the Go gateway's configuration in the routes, as it changes", async () => {
  await using server = await XdsStandIn.start();
  const abort = new AbortController();
  const found: (readonly Record<string, unknown>[])[] = [];
  const over = (async () => {
    for await (const one of watchConfigurations(sessionsOf(server), abort.signal)) found.push(one);
  })();
  await until(() => found.length === 1, "there is none");
  assertEquals(found[0], []);
  const rule = (cluster: string) => ({
    rules: [{ backend: "vllm", cluster, subset: [{ name: "v1", labels: { version: "1" } }] }],
  });
  server.routes("http.80", [{ protocol: "openai", model_mapping_rule: { qwen: rule("qwen.service") } }]);
  await until(() => found.at(-1)!.length === 1, "one route carries one");
  const base = parseConfig({ xds: { server: server.address, configuration: true } });
  const config = withRoutes(base, found.at(-1)!, "routes");
  assertEquals(Object.keys(config.model_mapping_rule), ["qwen"]);
  assertEquals(config.clusters.map(({ name, xds }) => [name, xds[0].host, xds[0].subsets]), [
    ["qwen.service", "qwen.service", { v1: { version: "1" } }],
  ]);
  // What the file says stays as it is.
  const own = parseConfig({
    xds: { server: server.address },
    clusters: [{ name: "qwen.service", endpoints: [{ address: "127.0.0.1", port: 1 }] }],
    model_mapping_rule: { qwen: { rules: [{ backend: "sglang", cluster: "qwen.service" }] } },
  });
  const both = withRoutes(own, found.at(-1)!, "routes");
  assertEquals(both.model_mapping_rule.qwen.rules[0].backend, "sglang");
  assertEquals(both.clusters.map(({ endpoints, xds }) => [endpoints.length, xds.length]), [[1, 0]]);
  const istio = withRoutes(base, [{ model_mapping_rule: { m: rule("outbound|81||host.service") } }], "routes");
  assertEquals([istio.clusters[0].xds[0].host, istio.clusters[0].xds[0].port], ["host.service", 81]);
  const wrong = [{ model_mapping_rule: { m: rule("a"), n: { rules: [{ backend: "sglang", cluster: "a" }] } } }];
  assertThrows(() => withRoutes(base, wrong, "routes"), ConfigError, 'the engines of cluster "a" are "vllm"');
  server.delete("Listener", "http.80");
  await until(() => found.at(-1)!.length === 0, "it is gone");
  server.filters("inbound", { model_mapping_rule: { a: rule("a.service") } }, { model_mapping_rule: { b: rule("b") } });
  await until(() => found.at(-1)!.length === 2, "one in the filter, one apart");
  const filters = withRoutes(base, found.at(-1)!, "routes");
  assertEquals(Object.keys(filters.model_mapping_rule).sort(), ["a", "b"]);
  abort.abort();
  await over;
});

test(
  "xds: a server that cannot be reached is told as it is",
  async () => {
    const server = await XdsStandIn.start();
    const { address } = server;
    await server[Symbol.asyncDispose]();
    await using watched = new Watched({ host: "qwen.service" }, new XdsSessions(xdsSchema.parse({ server: address })));
    await until(() => watched.error !== undefined, "it fails");
    assert(watched.error!.message.startsWith(`${address}: `), watched.error!.message);
  },
);
