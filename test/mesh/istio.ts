// SPDX-License-Identifier: Apache-2.0
// A real Istio pilot: a gateway that is given its address alone serves the models that an EnvoyFilter puts into its routes,
// from the endpoints of a ServiceEntry, by the subsets of a DestinationRule. `pilot-discovery` of the PATH, or the program
// that AIGW_PILOT names; it needs a Kubernetes API server beside it.

import { assert, assertEquals } from "@std/assert";
import { startMockEngine } from "../../src/mock/server.ts";
import { chat, post, startTestGateway } from "../support/gateway.ts";
import { freePort, installed } from "../support/machine.ts";
import { until } from "../support/until.ts";
import { noKubernetes, startKubernetes } from "./kubernetes_process.ts";

const PILOT = Deno.env.get("AIGW_PILOT") ?? "pilot-discovery";
const why = noKubernetes ??
  (installed(PILOT) ? undefined : `skipped: there is no program ${PILOT}; AIGW_PILOT may name one`);
if (why) console.log(why);
const test = (name: string, fn: () => Promise<void>) => Deno.test({ name, ignore: why !== undefined, fn });

const object = (kind: string, name: string, spec: unknown, version = "v1") => ({
  apiVersion: `networking.istio.io/${version}`,
  kind,
  metadata: { name, namespace: "default" },
  spec,
});

interface Mesh extends AsyncDisposable {
  readonly server: string;
  /** Puts these objects in place of those before. */
  set(objects: readonly unknown[]): Promise<void>;
}

async function startMesh(objects: readonly unknown[]): Promise<Mesh> {
  const kubernetes = await startKubernetes();
  await kubernetes.ask("POST", "/api/v1/namespaces", { metadata: { name: "istio-system" } });
  const folder = await Deno.makeTempDir();
  const set = async (list: readonly unknown[]) => {
    await Deno.writeTextFile(`${folder}/new`, list.map((one) => JSON.stringify(one)).join("\n---\n"));
    await Deno.rename(`${folder}/new`, `${folder}/mesh.yaml`);
  };
  await set(objects);
  const [http, grpc, monitoring] = [freePort(), freePort(), freePort()];
  const pilot = new Deno.Command(PILOT, {
    args: [
      ...["discovery", "--configDir", folder, "--kubeconfig", kubernetes.kubeconfig, "--meshConfig", "/dev/null"],
      ...["--httpAddr", `127.0.0.1:${http}`, "--grpcAddr", `127.0.0.1:${grpc}`, "--secureGRPCAddr", ""],
      ...["--httpsAddr", "", "--monitoringAddr", `127.0.0.1:${monitoring}`],
    ],
    stdin: "null",
    stdout: "null",
    stderr: "null",
  }).spawn();
  await until(
    () =>
      fetch(`http://127.0.0.1:${http}/ready`).then(async (response) => {
        await response.body?.cancel();
        return response.ok;
      }, () => false),
    "the pilot is ready",
    120_000,
  );
  return {
    server: `127.0.0.1:${grpc}`,
    set,
    async [Symbol.asyncDispose]() {
      pilot.kill("SIGKILL");
      await pilot.status;
      await kubernetes[Symbol.asyncDispose]();
      await Deno.remove(folder, { recursive: true });
    },
  };
}

type Models = Record<string, { rules: readonly Record<string, unknown>[] }>;

/** What runs the Go gateway in Envoy, as its operators have it. */
function objectsOf(ports: readonly [port: number, version: string][], models: Models): unknown[] {
  const plugin = { name: "llmproxy", config: { protocol: "openai", model_mapping_rule: models } };
  const config = { "@type": "type.googleapis.com/xds.type.v3.TypedStruct", value: { plugins: [plugin] } };
  const type = "type.googleapis.com/envoy.extensions.filters.http.golang.v3alpha.ConfigsPerRoute";
  const filter = { "envoy.filters.http.golang": { "@type": type, plugins_config: { fm: { config } } } };
  return [
    object("ServiceEntry", "engines", {
      hosts: ["qwen.service"],
      ports: [{ number: 80, name: "http", protocol: "HTTP" }],
      resolution: "STATIC",
      location: "MESH_INTERNAL",
      endpoints: ports.map(([port, version]) => ({ address: "127.0.0.1", ports: { http: port }, labels: { version } })),
    }),
    object("DestinationRule", "engines", {
      host: "qwen.service",
      subsets: ["v1", "v2"].map((version) => ({ name: version, labels: { version } })),
    }),
    object("Gateway", "llm", {
      selector: { app: "aigw" },
      servers: [{ port: { number: 10_000, name: "http", protocol: "HTTP" }, hosts: ["*"] }],
    }),
    object("VirtualService", "llm", {
      hosts: ["*"],
      gateways: ["llm"],
      http: [{
        name: "llm-apis",
        match: [{ uri: { prefix: "/v1" } }],
        route: [{ destination: { host: "qwen.service", port: { number: 80 } } }],
      }],
    }),
    object("EnvoyFilter", "llm", {
      configPatches: [{
        applyTo: "HTTP_ROUTE",
        match: { context: "GATEWAY", routeConfiguration: { vhost: { route: { name: "llm-apis" } } } },
        patch: { operation: "MERGE", value: { typed_per_filter_config: filter } },
      }],
    }, "v1alpha3"),
  ];
}

test("Istio: models out of the routes, endpoints out of the mesh, and both change under load", async () => {
  const engines = Array.from(
    { length: 4 },
    () => startMockEngine({ address: { hostname: "127.0.0.1", port: 0 }, instant: true }),
  );
  const [a, b, c, d] = engines.map(({ address }) => address.port);
  const rule = { backend: "vllm", cluster: "qwen.service" };
  const second = { ...rule, subset: [{ name: "v2", labels: { version: "v2" }, weight: 1 }] };
  await using mesh = await startMesh(
    objectsOf([[a, "v1"], [b, "v2"]], { qwen: { rules: [rule] }, two: { rules: [second] } }),
  );
  await using gateway = await startTestGateway([], {
    clusters: [],
    model_mapping_rule: {},
    xds: {
      server: mesh.server,
      configuration: true,
      labels: { app: "aigw" },
      // Of an address that no endpoint has: the pilot would take the gateway for that endpoint.
      node_id: "router~192.0.2.10~aigw.default~default.svc.cluster.local",
    },
  });
  const models = async () => {
    const { data } = await (await fetch(`${gateway.origin}/v1/models`)).json();
    return data.map(({ id }: { id: string }) => id).sort();
  };
  await until(async () => String(await models()) === "qwen,two", "both models are served");
  const states = async () =>
    (await gateway.endpoints()).filter(({ state }) => state === "available").map(({ port }) => port).sort();
  await until(async () => String(await states()) === String([a, b].sort()), "both endpoints are there");
  let over = false;
  const outcomes = new Map<string, number>();
  const served = new Set<string>();
  const clients = ["qwen", "two", "qwen", "two"].map(async (model) => {
    while (!over) {
      const response = await post(gateway.origin, chat("hello", { model }));
      await response.text();
      outcomes.set(`${model} ${response.status}`, (outcomes.get(`${model} ${response.status}`) ?? 0) + 1);
      if (model === "two") served.add(response.headers.get("x-aigw-endpoint") ?? "");
    }
  });
  for (let round = 0; round < 4; round++) {
    const all: [number, string][] = round % 2 === 0
      ? [[a, "v1"], [b, "v2"], [c, "v1"], [d, "v2"]]
      : [[a, "v1"], [b, "v2"]];
    await mesh.set(objectsOf(all, { qwen: { rules: [rule] }, two: { rules: [second] } }));
    const expected = String(all.map(([port]) => port).sort());
    await until(async () => {
      const live = (await gateway.endpoints()).filter((one) => !(one as unknown as { leaving: boolean }).leaving);
      return String(live.map(({ port }) => port).sort()) === expected;
    }, "the endpoints are those of the mesh");
  }
  over = true;
  await Promise.all(clients);
  assertEquals([...outcomes.keys()].sort(), ["qwen 200", "two 200"]);
  // The second model's subset is that of version v2.
  assert([...served].every((one) => one === `127.0.0.1:${b}` || one === `127.0.0.1:${d}`), [...served].join(" "));
  await mesh.set(objectsOf([[a, "v1"]], { other: { rules: [rule] } }));
  await until(async () => String(await models()) === "other", "another model is served");
  await gateway.settled();
  await Promise.all(engines.map((engine) => engine.stop()));
});

test("Istio: 10,000 endpoints in one push (figures)", async () => {
  const rule = { backend: "vllm", cluster: "qwen.service" };
  await using mesh = await startMesh(objectsOf([], { qwen: { rules: [rule] } }));
  await using gateway = await startTestGateway([], {
    clusters: [{ name: "c", xds: [{ host: "qwen.service", port: 80 }] }],
    model_mapping_rule: {},
    probes: { enabled: false },
    limits: { endpoints: 16_384 },
    xds: { server: mesh.server, node_id: "router~192.0.2.10~aigw.default~default.svc.cluster.local" },
  });
  // Addresses of the range that is kept for documentation; nothing is sent there.
  const many: [number, string][] = [];
  const objects = objectsOf(many, { qwen: { rules: [rule] } }) as { spec: { endpoints?: unknown[] } }[];
  objects[0].spec.endpoints = Array.from({ length: 10_000 }, (_, i) => ({
    address: `192.0.2.${1 + i % 250}`,
    ports: { http: 8_000 + Math.floor(i / 250) },
    labels: { version: "v1" },
  }));
  await mesh.set(objects);
  const source = () => gateway.gateway.control.discoveries.view().find(({ source }) => source.startsWith("xds"))!;
  await until(() => source().endpoints === 10_000, () => `all are known: ${JSON.stringify(source())}`, 120_000);
  const began = performance.now();
  await until(async () => (await gateway.endpoints()).length === 10_000, "all are in the fleet");
  console.log(
    `10,000 endpoints: in the fleet, and told of, ${(performance.now() - began).toFixed(0)} ms after they were known`,
  );
});
