// SPDX-License-Identifier: Apache-2.0
import { assert, assertEquals, assertThrows } from "@std/assert";
import { importGo } from "../../src/config/go_import.ts";
import { ConfigError, parseConfig } from "../../src/config/load.ts";
import { configNotes } from "../../src/config/schema.ts";
import { Random, seed } from "../support/seed.ts";

/** The plugin's configuration as deep as Envoy has it. */
const bootstrap = (plugin: unknown) => ({
  static_resources: {
    listeners: [{
      address: { socket_address: { address: "0.0.0.0", port_value: 10000 } },
      filter_chains: [{
        filters: [{ typed_config: { routes: [{ plugins: [{ name: "llmproxy", config: plugin }] }] } }],
      }],
    }],
  },
});
const clusters = { clusters: [{ name: "c", endpoints: [{ address: "10.0.0.1", port: "8000", labels: { v: 1 } }] }] };
const noted = (notes: readonly string[], ...texts: string[]) => {
  for (const text of texts) assert(notes.some((note) => note.includes(text)), `${text} is among ${notes.join("\n")}`);
};

Deno.test("importGo: both spellings, numbers as text, nulls; what Go ignores is left out and said", () => {
  const { config, notes } = importGo([
    bootstrap({
      protocol: "openai",
      algorithm: "RoundRobin",
      modelMappingRule: {
        m: {
          rules: [
            { backend: "sglang", cluster: "c", weight: "100", sceneName: "s", chain_name: null, colour: "red" },
            {
              backend: "sglang",
              cluster: "c",
              routeName: "r",
              headers: [{ key: "x-tier", value: "gold" }],
              subset: [{ labels: { v: 1 }, lora: "adapter", weight: 5 }, { name: "never read" }],
            },
            { backend: "sglang", cluster: "c", headers: [{ key: ":path", value: "/x" }] },
            { backend: "sglang", cluster: "c", headers: [{ key: ":scheme", value: "https" }] },
          ],
        },
      },
      lbMappingRule: { m: { loadAwareEnable: true, candidatePercent: "20" }, ghost: {} },
      log: { enabled: true },
    }),
    clusters,
  ]);
  assertEquals(config, {
    algorithm: "round_robin",
    listen: "0.0.0.0:10000",
    clusters: [{ name: "c", endpoints: [{ address: "10.0.0.1", port: 8000, labels: { v: "1" } }] }],
    model_mapping_rule: {
      m: {
        rules: [
          { backend: "sglang", cluster: "c", scene_name: "s" },
          {
            backend: "sglang",
            cluster: "c",
            route_name: "r",
            headers: [{ key: "x-tier", value: "gold" }],
            subset: [{ lora: "adapter", labels: { v: "1" } }],
          },
          { backend: "sglang", cluster: "c", headers: [{ key: ":path", value: "/x" }] },
        ],
      },
    },
    log: { llm: { enabled: true, path: "/home/admin/logs/llm.log" } },
    lb_mapping_rule: {
      m: {
        load_aware_enable: true,
        cache_aware_enable: false,
        candidate_percent: 20,
        request_load_weight: 0,
        prefill_load_weight: 0,
        cache_radio_weight: 0,
      },
    },
  });
  noted(notes, "rules[0].weight", "rules[0].colour", "rules[1].subset", "rules[3]: left out", "ghost", "log:");
  noted(notes, "cache_aware_enable, request_load_weight");
  parseConfig(config);
});

Deno.test("importGo: an EnvoyFilter with endpoints of a ServiceEntry, named as Istio does", () => {
  const plugin = {
    model_mapping_rule: {
      m: { rules: [{ backend: "", cluster: "outbound|80||qwen" }] },
      n: { rules: [{ backend: "coordinator", cluster: "nowhere" }] },
    },
  };
  const { config, notes } = importGo([
    { kind: "EnvoyFilter", spec: { configPatches: [{ patch: { value: { plugins: [{ config: plugin }] } } }] } },
    {
      kind: "ServiceEntry",
      spec: {
        hosts: ["qwen"],
        ports: [{ name: "p", number: 80, targetPort: 8000 }],
        endpoints: [{ address: "10.0.0.1" }, { address: "10.0.0.2", ports: { p: 9000 }, labels: { zone: "a" } }],
      },
    },
  ]);
  assertEquals(config.clusters, [
    {
      name: "outbound|80||qwen",
      endpoints: [{ address: "10.0.0.1", port: 8000 }, { address: "10.0.0.2", port: 9000, labels: { zone: "a" } }],
    },
    { name: "nowhere", endpoints: [] },
  ]);
  assertEquals(parseConfig(config).model_mapping_rule.m.rules[0].backend, "triton");
  noted(notes, "coordinator", "cluster nowhere");
});

Deno.test("importGo: a cluster of Envoy's own; algorithms that nobody knows are round_robin", () => {
  const envoy = bootstrap({
    algorithm: "maglev",
    model_mapping_rule: { m: { rules: [{ backend: "vllm", cluster: "e" }] } },
  });
  const address = { socket_address: { address: "10.0.0.9", port_value: 8000 } };
  const { config, notes } = importGo([{
    static_resources: {
      ...envoy.static_resources,
      clusters: [{ name: "e", load_assignment: { endpoints: [{ lb_endpoints: [{ endpoint: { address } }] }] } }],
    },
  }]);
  assertEquals([config.algorithm, config.clusters], ["round_robin", [{
    name: "e",
    endpoints: [{ address: "10.0.0.9", port: 8000 }],
  }]]);
  noted(notes, "maglev");
});

Deno.test("importGo takes any document without an error of its own", () => {
  const random = new Random(seed);
  const names = ["plugins", "modelMappingRule", "rules", "headers", "subset", "clusters", "endpoints", "kind", "spec"];
  const value = (depth: number): unknown => {
    const kind = random.below(depth > 4 ? 3 : 6);
    if (kind < 3) return random.pick([null, 5, "ServiceEntry", true, "c"]);
    if (kind === 3) return Array.from({ length: random.below(3) }, () => value(depth + 1));
    return Object.fromEntries(Array.from({ length: random.below(4) }, () => [random.pick(names), value(depth + 1)]));
  };
  for (let i = 0; i < 5_000; i++) importGo([value(0), { modelMappingRule: value(1), static_resources: value(1) }]);
});

Deno.test("compat: go reads what Go's gateway takes, keeps what only ours knows, and says what has no effect", () => {
  const rules = [{ backend: "vllm", cluster: "c", sceneName: null, colour: "red", target_model: "big", weight: 3 }];
  const given = {
    algorithm: "RoundRobin",
    retries: 2,
    clusters: [{ name: "c" }],
    modelMappingRule: { m: { rules } },
    lbMappingRule: { m: { loadAwareEnable: true, candidatePercent: "20", ttft_slo_ms: 500 }, ghost: {} },
  };
  const config = parseConfig({ compat: "go", ...given });
  assertEquals([config.algorithm, config.retries], ["round_robin", 2]);
  assertEquals([config.model_mapping_rule.m.rules[0].target_model, config.clusters[0].name], ["big", "c"]);
  const { load_aware_enable, cache_aware_enable, candidate_percent, cache_radio_weight, ttft_slo_ms } =
    config.lb_mapping_rule.m;
  assertEquals(
    [load_aware_enable, cache_aware_enable, candidate_percent, cache_radio_weight, ttft_slo_ms],
    [true, false, 20, 0, 500],
  );
  noted(configNotes(config), "rules[0].colour", "rules[0].weight", "ghost", "cache_aware_enable, request_load_weight");
  assertThrows(() => parseConfig(given), ConfigError, "modelMappingRule");
  assertThrows(() => parseConfig({ compat: "go", ...given, retrys: 2 }), ConfigError, "retries");
});
