// SPDX-License-Identifier: Apache-2.0
// What is shipped beside the program: it names metrics that exist, configurations that are valid, and times that fit.

import { assert, assertEquals, assertMatch } from "@std/assert";
import { parse, parseAll } from "@std/yaml";
import { FAMILIES } from "../../src/admin/metric_families.ts";
import { loadConfig, parseConfig } from "../../src/config/load.ts";
import { VERSION } from "../../src/base/version.ts";
import { promtool } from "../support/promtool.ts";

const config = new URL("../../config/", import.meta.url);
const read = (path: string) => Deno.readTextFileSync(new URL(path, config));

/** Names that a metric's samples have. */
function samples(): Map<string, readonly string[]> {
  const names = new Map<string, readonly string[]>();
  for (const { name, type, labels } of Object.values(FAMILIES)) {
    names.set(name, labels);
    if (type === "histogram") names.set(`${name}_bucket`, [...labels, "le"]);
    if (type === "histogram" || type === "summary") {
      for (const end of ["_sum", "_count"]) names.set(name + end, labels);
    }
  }
  return names;
}

function checkExpression(expression: string): void {
  const known = samples();
  for (const [, name, , selected = ""] of expression.matchAll(/\b((?:aigw|process)_[a-z0-9_]+)(\{([^}]*)\})?/g)) {
    assert(known.has(name), `there is no metric ${name}: ${expression}`);
    for (const [, label] of selected.matchAll(/(\w+)[=!]~?"/g)) {
      assert(label === "instance" || known.get(name)!.includes(label), `${name} has no label ${label}: ${expression}`);
    }
  }
}

Deno.test("alerts name metrics that exist, and Prometheus takes them", async () => {
  type Rule = { alert: string; expr: string; annotations: { summary: string } };
  const [{ groups }] = parseAll(read("prometheus-alerts.yaml")) as [{ groups: { rules: Rule[] }[] }];
  const rules = groups.flatMap(({ rules }) => rules);
  assert(rules.length >= 10);
  for (const { expr, annotations } of rules) {
    checkExpression(expr);
    assert(annotations.summary.length > 0);
  }
  const checked = await promtool(["check", "rules", new URL("prometheus-alerts.yaml", config).pathname]);
  if (checked !== undefined) assertEquals(checked.code, 0, checked.said);
});

Deno.test("the dashboard names metrics that exist, and its panels do not lie on one another", async () => {
  type Panel = {
    id: number;
    type: string;
    gridPos: { x: number; y: number; w: number; h: number };
    targets?: { expr: string }[];
  };
  const { panels } = JSON.parse(read("grafana-dashboard.json")) as { panels: Panel[] };
  assertEquals(new Set(panels.map(({ id }) => id)).size, panels.length);
  const expressions: string[] = [];
  const taken = new Set<string>();
  for (const { gridPos: { x, y, w, h }, targets = [] } of panels) {
    for (const { expr } of targets) {
      checkExpression(expr.replaceAll(/"\$\w+"/g, '"x"'));
      expressions.push(expr.replaceAll("$__rate_interval", "5m").replaceAll(/"\$\w+"/g, '"x"'));
    }
    for (let i = x; i < x + w; i++) {
      for (let k = y; k < y + h; k++) {
        assert(!taken.has(`${i} ${k}`), "two panels on one place");
        taken.add(`${i} ${k}`);
      }
    }
  }
  const rules = expressions.map((expr, i) => ({ record: `x${i}`, expr }));
  const path = await Deno.makeTempFile({ suffix: ".yaml" });
  await Deno.writeTextFile(path, JSON.stringify({ groups: [{ name: "x", rules }] }));
  const checked = await promtool(["check", "rules", path]);
  if (checked !== undefined) assertEquals(checked.code, 0, checked.said);
  await Deno.remove(path);
});

Deno.test("Kubernetes: the configuration is valid, times fit, ports and names are the same everywhere", async () => {
  // deno-lint-ignore no-explicit-any -- whatever Kubernetes takes
  const documents = (name: string): any[] => parseAll(read(`kubernetes/${name}`)) as any[];
  const [{ resources }] = documents("kustomization.yaml");
  const files = [...Deno.readDirSync(new URL("kubernetes/", config))].map(({ name }) => name);
  assertEquals([...resources, "kustomization.yaml"].sort(), files.sort());
  const [configMap] = documents("configmap.yaml");
  const path = await Deno.makeTempFile({ suffix: ".yaml" });
  await Deno.writeTextFile(path, configMap.data["aigw.yaml"]);
  const loaded = await loadConfig(path, { get: () => undefined });
  await Deno.remove(path);
  const [deployment] = documents("deployment.yaml");
  const { spec } = deployment.spec.template;
  const [container] = spec.containers;
  const { shutdown_delay_ms, drain_ms } = loaded.timeouts;
  assert(spec.terminationGracePeriodSeconds * 1_000 >= shutdown_delay_ms + drain_ms + 5_000);
  const port = (name: string) =>
    container.ports.find((one: { name: string }) => one.name === name).containerPort as number;
  assertEquals(
    [loaded.listen, loaded.admin.listen, loaded.metadata_center.listen],
    [port("http"), port("admin"), port("center")].map((number) => `0.0.0.0:${number}`),
  );
  const variables = container.env.map(({ name }: { name: string }) => name);
  assertEquals(variables, [loaded.admin.token_env, loaded.metadata_center.token_env]);
  assertEquals(container.image, `aigw:${VERSION}`);
  assertEquals([spec.securityContext.runAsNonRoot, container.securityContext.readOnlyRootFilesystem], [true, true]);
  for (const service of documents("service.yaml")) {
    for (const { targetPort } of service.spec.ports) assert(port(targetPort) > 0);
  }
  const peers = documents("service.yaml").find(({ metadata }) => metadata.name === "aigw-peers");
  assertEquals(loaded.metadata_center.peers_dns, `aigw-peers.aigw.svc.cluster.local:${peers.spec.ports[0].port}`);
  for (const { spec: { metrics = [] } } of documents("autoscaling.yaml")) {
    for (const { external } of metrics) if (external) checkExpression(external.metric.name);
  }
});

Deno.test("endpoint picker: the configuration is valid, ports, names and rights fit it", () => {
  // deno-lint-ignore no-explicit-any -- whatever Kubernetes takes
  const documents = (name: string): any[] => parseAll(read(`endpoint-picker/${name}`)) as any[];
  const [{ resources, patches }] = documents("kustomization.yaml");
  const files = [...Deno.readDirSync(new URL("endpoint-picker/", config))].map(({ name }) => name);
  const named = [...resources, ...patches.map(({ path }: { path: string }) => path), "kustomization.yaml"];
  assertEquals(named.filter((name) => name !== "../kubernetes").sort(), files.sort());
  const [configMap] = documents("configmap.yaml");
  const loaded = parseConfig(parse(configMap.data["aigw.yaml"]));
  const [deployment] = documents("deployment.yaml");
  const [{ ports: [{ containerPort }] }] = deployment.spec.template.spec.containers;
  assertEquals(loaded.ext_proc!.listen, `0.0.0.0:${containerPort}`);
  const [service] = documents("service.yaml");
  const [pool] = documents("inference-pool.yaml");
  const { name, port } = pool.spec.endpointPickerRef;
  assertEquals([name, port.number], [service.metadata.name, service.spec.ports[0].port]);
  const [{ inference_pool, namespace }] = loaded.clusters[0].kubernetes;
  assertEquals([inference_pool, namespace], [pool.metadata.name, pool.metadata.namespace]);
  const [account, role, binding] = documents("rights.yaml");
  assertEquals(deployment.spec.template.spec.serviceAccountName, account.metadata.name);
  assertEquals([binding.roleRef.name, binding.subjects[0].name], [role.metadata.name, account.metadata.name]);
  const may = role.rules.map((
    { resources: [resource], verbs }: { resources: string[]; verbs: string[] },
  ) => [resource, String(verbs)]);
  assertEquals(may, ["pods", "inferencepools", "inferenceobjectives"].map((one) => [one, "get,list,watch"]));
});

Deno.test("the image runs as a number, and the service ends after the gateway", () => {
  const dockerfile = read("../Dockerfile");
  assertMatch(dockerfile, /^USER \d+:\d+$/m);
  const version = /deno:(\S+)/.exec(dockerfile)![1];
  assert(read("../.ci/run").includes(`deno@${version}`));
  for (const workflow of ["check", "release"]) {
    assert(read(`../.github/workflows/${workflow}.yaml`).includes(`deno-version: ${version}\n`));
  }
  const stop = Number(/^TimeoutStopSec=(\d+)$/m.exec(read("systemd/aigw.service"))![1]);
  assert(stop >= 60);
});
