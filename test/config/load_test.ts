// SPDX-License-Identifier: Apache-2.0
import { assertEquals, assertRejects, assertStringIncludes, assertThrows } from "@std/assert";
import { readAccess } from "../../src/config/access.ts";
import { ConfigError, loadConfig, parseConfig } from "../../src/config/load.ts";

const SMALL = {
  clusters: [{ name: "c", endpoints: [{ address: "h", port: 1 }] }],
  model_mapping_rule: { m: { rules: [{ backend: "vllm", cluster: "c" }] } },
};

function problem(value: unknown): string {
  return assertThrows(() => parseConfig(value), ConfigError).message;
}

Deno.test("parseConfig names the path of everything wrong at once", () => {
  const message = problem({ ...SMALL, wrkers: 2, limits: { prefixes: 0 }, timeouts: { connect_ms: "soon" } });
  assertStringIncludes(message, "3 problems");
  assertStringIncludes(message, 'wrkers: unknown key; did you mean "workers"?');
  assertStringIncludes(message, "limits.prefixes: Too small");
  assertStringIncludes(message, 'timeouts.connect_ms: expected number, received string (found "soon")');
});

Deno.test("parseConfig suggests keys inside lists and records", () => {
  assertStringIncludes(
    problem({ ...SMALL, model_mapping_rule: { m: { rules: [{ backend: "vllm", cluster: "c", header: [] }] } } }),
    'model_mapping_rule.m.rules[0].header: unknown key; did you mean "headers"?',
  );
  assertStringIncludes(
    problem({ ...SMALL, lb_mapping_rule: { m: { cache_ratio_weight: 3 } } }),
    'lb_mapping_rule.m.cache_ratio_weight: unknown key; did you mean "cache_radio_weight"?',
  );
});

Deno.test("parseConfig checks how the sections relate", () => {
  const rule = (more: object) => ({ backend: "vllm", cluster: "c", ...more });
  const cases: [object, string][] = [
    [{ model_mapping_rule: { m: { rules: [rule({ cluster: "d" })] } } }, 'no cluster "d"; there are: c'],
    [{ clusters: [...SMALL.clusters, { name: "c" }] }, 'two clusters named "c"'],
    [
      { clusters: [{ name: "c", endpoints: [{ address: "h", port: 1 }, { address: "h", port: 1 }] }] },
      "h:1 is listed twice",
    ],
    [{ model_mapping_rule: { m: { rules: [rule({}), rule({})] } } }, "only one rule may have no headers"],
    [{
      model_mapping_rule: {
        m: { rules: [rule({}), rule({ backend: "sglang", headers: [{ key: "a", value: "b" }] })] },
      },
    }, 'the engines of cluster "c" are "vllm"'],
    [{ model_mapping_rule: { m: { rules: [rule({ subset: [{ weight: 0 }] })] } } }, "weight above 0"],
    [{ lb_mapping_rule: { other: {} } }, "no such model"],
    [{ limits: { endpoints: 8 } }, "limits.endpoints is 8"],
    [
      {
        model_mapping_rule: {
          m: { rules: [rule({ subset: Array.from({ length: 32 }, (_, i) => ({ labels: { i: `${i}` } })) })] },
        },
      },
      "32 different label sets",
    ],
  ];
  for (const [change, message] of cases) assertStringIncludes(problem({ ...SMALL, ...change }), message);
});

Deno.test("loadConfig reads YAML, a clusters file beside it, and the environment", async () => {
  const folder = await Deno.makeTempDir();
  try {
    await Deno.writeTextFile(`${folder}/c.json`, JSON.stringify({ clusters: SMALL.clusters }));
    await Deno.writeTextFile(
      `${folder}/a.yaml`,
      "clusters_file: c.json\nmodel_mapping_rule: {m: {rules: [{backend: vllm, cluster: c}]}, n: {rules: [{backend: vllm, cluster: c}]}}\nlb_mapping_rule: {n: {candidate_percent: 9}}\n",
    );
    const environment = (value?: string) => ({
      get: (name: string) => name === "HTNN_AIGW_INFER_LB_CANDIDATE_PERCENT" ? value : undefined,
    });
    const config = await loadConfig(`${folder}/a.yaml`, environment("40"));
    assertEquals(config.clusters.map(({ name }) => name), ["c"]);
    assertEquals([config.lb_mapping_rule.m.candidate_percent, config.lb_mapping_rule.n.candidate_percent], [40, 9]);
    await assertRejects(
      () => loadConfig(`${folder}/a.yaml`, environment("many")),
      ConfigError,
      "a number from 0 to 100",
    );
    await Deno.writeTextFile(`${folder}/c.json`, '{"cluster": []}');
    await assertRejects(() => loadConfig(`${folder}/a.yaml`, environment()), ConfigError, `${folder}/c.json`);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("readAccess: credentials of clients go on where the cluster says so, and as with Go's gateway", async () => {
  const forwards = async (cluster: object, more: object = {}) => {
    const access = await readAccess(parseConfig({ clusters: [{ name: "c", ...cluster }], ...more }));
    return access.get("c")!.forwardCredentials;
  };
  assertEquals(await forwards({}), false);
  assertEquals(await forwards({ forward_credentials: true }), true);
  assertEquals(await forwards({}, { compat: "go" }), true);
  assertEquals(await forwards({ forward_credentials: false }, { compat: "go" }), false);
});
