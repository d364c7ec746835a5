// SPDX-License-Identifier: Apache-2.0
// Reload and discovery in a whole gateway: what applies, what is refused, what is told.

import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { formatAddress } from "../../src/base/address.ts";
import { configFile } from "../../src/control/config_file.ts";
import { type GatewayProcess, startGateway } from "../../src/server/gateway_process.ts";
import { startDnsServer } from "../support/dns_server.ts";
import { CHANGE, chat, post, startEngines } from "../support/gateway.ts";
import { until } from "../support/until.ts";

interface FileGateway extends AsyncDisposable {
  readonly origin: string;
  readonly admin: string;
  readonly gateway: GatewayProcess;
  write(text: string): Promise<void>;
  get(path: string): Promise<{ status: number; text: string }>;
  /** State of each endpoint HOST:PORT. */
  states(): Promise<Record<string, string>>;
}

const FIXED = `listen: 127.0.0.1:0
admin: {listen: 127.0.0.1:0}
metadata_center: {listen: 127.0.0.1:0}
workers: 1
log: {level: error, enabled: false}
expose_endpoint: true
reload: {interval_ms: 20}
`;

async function startFromFile(text: string, fixed = FIXED): Promise<FileGateway> {
  const path = await Deno.makeTempFile({ suffix: ".yaml" });
  const write = async (changed: string) => {
    await Deno.writeTextFile(`${path}.new`, fixed + changed);
    await Deno.rename(`${path}.new`, path);
  };
  await write(text);
  const source = configFile(path, () => {});
  const gateway = await startGateway(await source.load(), { source });
  const admin = `http://${formatAddress(gateway.admin)}`;
  return {
    origin: `http://${formatAddress(gateway.listen)}`,
    admin,
    gateway,
    write,
    async get(path) {
      const response = await fetch(`${admin}${path}`);
      return { status: response.status, text: await response.text() };
    },
    async states() {
      const { endpoints } = await (await fetch(`${admin}/endpoints`)).json();
      return Object.fromEntries(
        endpoints.map((
          one: { address: string; port: number; state: string },
        ) => [`${one.address}:${one.port}`, one.state]),
      );
    },
    async [Symbol.asyncDispose]() {
      await gateway.stop(2_000);
      await Deno.remove(path);
    },
  };
}

const clusterText = (engines: { address: { port: number } }[], more = "") =>
  `clusters:
  - name: c
    endpoints: [${engines.map(({ address: { port } }) => `{address: 127.0.0.1, port: ${port}}`).join(", ")}]
${more}model_mapping_rule:
  m: {rules: [{backend: vllm, cluster: c}]}
`;

async function answeredBy(origin: string, model = "m", more: RequestInit = {}): Promise<string> {
  const response = await post(origin, chat("x", { model, max_tokens: 1 }), more);
  await response.body?.cancel();
  return `${response.status} ${response.headers.get("x-aigw-endpoint") ?? ""}`;
}

Deno.test("a changed file applies as a whole: other endpoints, models, rules to other clusters", async () => {
  await using engines = startEngines(3, { instant: true });
  const names = engines.map(({ address }) => formatAddress(address));
  await using gateway = await startFromFile(clusterText([engines[0]]));
  assertEquals(await answeredBy(gateway.origin), `200 ${names[0]}`);
  const before = gateway.gateway.control.snapshot.version;
  await gateway.write(`clusters:
  - {name: c, endpoints: [{address: 127.0.0.1, port: ${engines[1].address.port}}]}
  - {name: d, endpoints: [{address: 127.0.0.1, port: ${engines[2].address.port}}]}
model_mapping_rule:
  m:
    rules:
      - {backend: vllm, cluster: c}
      - {backend: sglang, cluster: d, headers: [{key: x-tier, value: gold}]}
  n: {rules: [{backend: vllm, cluster: c}]}
`);
  await until(async () => await answeredBy(gateway.origin, "n") === `200 ${names[1]}`, "the new configuration");
  assertEquals(await answeredBy(gateway.origin), `200 ${names[1]}`);
  assertEquals(await answeredBy(gateway.origin, "m", { headers: { "x-tier": "gold" } }), `200 ${names[2]}`);
  assert(gateway.gateway.control.snapshot.version > before);
  assertEquals((await gateway.states())[names[0]], "draining", "it rests until its drain time is over");
  // Back before that, it has its row and what is known of it.
  const row = gateway.gateway.fleet.members.find(({ name }) => name === names[0])!.row;
  await gateway.write(clusterText([engines[0]]));
  await until(async () => await answeredBy(gateway.origin) === `200 ${names[0]}`, "the old one");
  assertEquals(gateway.gateway.fleet.members.find(({ name }) => name === names[0])!.row, row);
});

Deno.test("a wrong file is refused with its error and the old one stays in force; /config, /readyz and metrics say so", async () => {
  await using engines = startEngines(1, { instant: true });
  await using gateway = await startFromFile(clusterText(engines));
  const status = async () => JSON.parse((await gateway.get("/config")).text).status;
  const first = await status();
  assertEquals([first.last_error, first.restart_needed_for, first.counts.refused], [null, [], 0]);
  for (
    const [text, error] of [
      ["clusters: [{name: c, endpoint: []}]", /clusters\[0\]\.endpoint: unknown key/],
      [clusterText(engines).replace("cluster: c}", "cluster: d}"), /no cluster "d"; there are: c/],
      ["{", /neither YAML nor JSON/],
      [
        clusterText(engines).replace(
          "backend: vllm, cluster: c",
          'backend: triton, cluster: c, triton: {chat_template: "{% if"}',
        ),
        /triton\.chat_template: is no Jinja chat template/,
      ],
    ] as const
  ) {
    const { refused } = (await status()).counts;
    await gateway.write(text);
    await until(async () => (await status()).counts.refused > refused, "its refusal");
    const now = await status();
    assertMatch(now.last_error, error);
    assertEquals([now.version, now.in_force_since], [first.version, first.in_force_since]);
    assertEquals((await answeredBy(gateway.origin)).slice(0, 3), "200");
  }
  const ready = await gateway.get("/readyz");
  assertEquals(ready.status, 200);
  assertStringIncludes(ready.text, "a changed configuration is refused");
  const metrics = (await gateway.get("/metrics")).text;
  assertMatch(metrics, /^aigw_config_reload_total\{result="refused"\} [1-9]/m);
  assertMatch(metrics, /^aigw_config_last_reload_success_timestamp_seconds \d+/m);
  await gateway.write(clusterText(engines, "    labels: {}\n").replace("    labels: {}\n", ""));
  await until(async () => (await status()).last_error === null, "the good one");
  assertEquals((await gateway.get("/readyz")).text, "ready\n");
});

Deno.test("what needs a restart is named and left as it is; the rest of the change applies", async () => {
  await using engines = startEngines(1, { instant: true });
  await using gateway = await startFromFile(clusterText(engines));
  await gateway.write(
    `${clusterText(engines)}  n: {rules: [{backend: vllm, cluster: c}]}\nlimits: {endpoints: 64, body_bytes: 1000}\n`,
  );
  await until(async () => (await answeredBy(gateway.origin, "n")).startsWith("200"), "the new model");
  const { status, config } = JSON.parse((await gateway.get("/config")).text);
  assertEquals(status.restart_needed_for, ["limits.endpoints"]);
  assertEquals([config.limits.endpoints, config.limits.body_bytes], [2_048, 1_000]);
  assertEquals((await answeredBy(gateway.origin, "m")).slice(0, 3), "200");
  const large = await post(gateway.origin, chat("x".repeat(2_000)));
  await large.body?.cancel();
  assertEquals(large.status, 413, "limits that are no memory apply at once");
});

Deno.test("POST /config/reload says what came of it", async () => {
  await using engines = startEngines(1, { instant: true });
  const fixed = FIXED.replace("interval_ms: 20", "watch: false");
  await using gateway = await startFromFile(clusterText(engines), fixed);
  const reload = async () => {
    const response = await fetch(`${gateway.admin}/config/reload`, CHANGE);
    return { http: response.status, ...await response.json() };
  };
  assertEquals((await reload()).result, "unchanged");
  await gateway.write(`${clusterText(engines)}retry: 1\n`);
  const { http, result, error } = await reload();
  assertEquals([http, result], [400, "refused"]);
  assertStringIncludes(error, "retry: unknown key");
  await gateway.write(`${clusterText(engines)}retries: 3\n`);
  const { changes, ...applied } = await reload();
  assertEquals([applied.http, applied.result, changes.sections], [200, "applied", ["retries"]]);
});

Deno.test("an endpoint with requests that leaves the fleet finishes what it has and gets nothing new", async () => {
  await using engines = startEngines(2, { speed: 5 });
  await using gateway = await startFromFile(clusterText([engines[0]]));
  const stream = await post(gateway.origin, chat("x", { stream: true, max_tokens: 400 }));
  const reader = stream.body!.getReader();
  await reader.read();
  await gateway.write(clusterText([engines[1]]));
  const name = formatAddress(engines[1].address);
  await until(async () => await answeredBy(gateway.origin) === `200 ${name}`, "the other engine");
  assertEquals((await gateway.states())[formatAddress(engines[0].address)], "draining");
  let text = "";
  for (let next = await reader.read(); !next.done; next = await reader.read()) {
    text += new TextDecoder().decode(next.value);
  }
  assertStringIncludes(text, "[DONE]");
  assertEquals(engines[0].model.waiting + engines[0].model.running, 0);
});

Deno.test("the admin puts endpoints in and takes them away; those of other sources are theirs", async () => {
  await using engines = startEngines(2, { instant: true });
  await using gateway = await startFromFile(clusterText([engines[0]]));
  const [fixed, put] = engines.map(({ address }) => formatAddress(address));
  const call = async (method: string, path: string, body?: string) => {
    const response = await fetch(`${gateway.admin}${path}`, { ...CHANGE, method, body });
    return { status: response.status, text: await response.text() };
  };
  assertEquals((await call("PUT", `/clusters/c/endpoints/${put}`, '{"labels": {"zone": "b"}}')).status, 200);
  await until(async () => (await gateway.states())[put] === "available", "the new endpoint");
  const { endpoints } = JSON.parse((await gateway.get("/endpoints")).text);
  assertEquals(endpoints.find((one: { port: number }) => one.port === engines[1].address.port).labels, { zone: "b" });
  await call("POST", `/endpoints/${fixed}/drain`);
  assertEquals(await answeredBy(gateway.origin), `200 ${put}`);
  await call("POST", `/endpoints/${fixed}/resume`);
  for (
    const [method, path, body, status, message] of [
      ["PUT", `/clusters/d/endpoints/${put}`, "", 404, 'no cluster \\"d\\"; there are: c'],
      ["PUT", "/clusters/c/endpoints/nowhere", "", 400, "HOST:PORT"],
      ["PUT", `/clusters/c/endpoints/${put}`, "{", 400, "no JSON"],
      ["PUT", `/clusters/c/endpoints/${put}`, '{"label": {}}', 400, "label"],
      ["DELETE", `/clusters/c/endpoints/${fixed}`, undefined, 400, "comes from configuration"],
      ["DELETE", "/clusters/c/endpoints/127.0.0.1:1", undefined, 404, "has no endpoint"],
      ["POST", `/clusters/c/endpoints/${put}`, "", 405, "PUT or DELETE"],
    ] as const
  ) {
    const answer = await call(method, path, body);
    assertEquals(answer.status, status, answer.text);
    assertStringIncludes(answer.text, message);
  }
  assertEquals((await call("DELETE", `/clusters/c/endpoints/${put}`)).status, 200);
  await until(async () => (await gateway.states())[put] === "draining", "its end");
  assertEquals(await answeredBy(gateway.origin), `200 ${fixed}`);
});

Deno.test("a DNS name's addresses are endpoints; a name server that fails changes nothing and is told of", async () => {
  await using engines = startEngines(2, { instant: true });
  const ports = engines.map(({ address }) => address.port);
  const srv = (...indexes: number[]) => ({
    SRV: { "_http.engines.test": indexes.map((i) => ({ target: "host.test", port: ports[i] })) },
    A: { "host.test": ["127.0.0.1"] },
  });
  await using dns = startDnsServer(srv(0));
  await using gateway = await startFromFile(
    `clusters:
  - name: c
    dns: [{name: _http.engines.test, type: SRV, interval_ms: 50, server: "${dns.address}"}]
model_mapping_rule:
  m: {rules: [{backend: vllm, cluster: c}]}
`,
  );
  assertEquals(await answeredBy(gateway.origin), `200 127.0.0.1:${ports[0]}`);
  dns.records = srv(1);
  await until(async () => await answeredBy(gateway.origin) === `200 127.0.0.1:${ports[1]}`, "the other address");
  dns.mood = "failing";
  await until(async () => (await gateway.get("/readyz")).text.includes("failing: dns"), "word of the failure");
  assertEquals((await gateway.get("/readyz")).status, 200);
  assertMatch((await gateway.get("/metrics")).text, /^aigw_discovery_up\{source="dns [^"]+"\} 0$/m);
  assertEquals(await answeredBy(gateway.origin), `200 127.0.0.1:${ports[1]}`);
  dns.mood = "well";
  dns.records = srv(0, 1);
  await until(async () => {
    const states = Object.values(await gateway.states());
    return states.length === 2 && states.every((state) => state === "available");
  }, "both");
  await until(async () => (await gateway.get("/readyz")).text === "ready\n", "ready without more");
});
