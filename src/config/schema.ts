// SPDX-License-Identifier: Apache-2.0
// The whole configuration and the relations between its sections.

import { INFERENCE_PATHS, KINDS } from "../openai/api.ts";
import { z } from "zod";
import { isLoopback, parseAddress } from "../base/address.ts";
import { type ClusterConfig, clusterSchema } from "./clusters.ts";
import { extProcSchema } from "./ext_proc.ts";
import { kvEventsSchema, tokenizersSchema } from "./kv_events.ts";
import { kubernetesSchema } from "./kubernetes.ts";
import { xdsSchema } from "./xds.ts";
import { logSchema } from "./log.ts";
import { metadataCenterSchema } from "./metadata_center.ts";
import { tenancySchema, tenantSchema } from "./tenants.ts";
import { loadBalancingSchema, modelMappingSchema, splitReasoningSchema } from "./models.ts";
import {
  addressSchema,
  adminSchema,
  admissionSchema,
  corsSchema,
  hedgeSchema,
  limitsSchema,
  listenerSchema,
  outliersSchema,
  POLICIES,
  predictionSchema,
  probesSchema,
  queueSchema,
  reloadSchema,
  retryBudgetSchema,
  saturationSchema,
  timeoutsSchema,
  tlsSchema,
} from "./sections.ts";

/** Label sets that one cluster's rules may name: bits 3 to 31 of an endpoint's eligibility. */
export const MAX_LABEL_SETS = 29;

const pathSchema = z.strictObject({
  path: z.string().regex(/^\/[^\s?#]*$/, { error: "expected a path without a query, for example /v1/custom" }),
  kind: z.enum(KINDS).default("other").describe(
    "What its requests are: how their prompt is read, or only JSON (other) or a multipart form with a model in it",
  ),
});

export const configSchema = z.strictObject({
  compat: z.literal("go").optional().describe(
    "Read protocol, algorithm, model_mapping_rule and lb_mapping_rule as the Go gateway does: either spelling of a key, numbers as text, null for nothing, what it ignores with a warning, and what a lb_mapping_rule leaves out is false or 0",
  ),
  protocol: z.literal("openai").default("openai"),
  algorithm: z.enum(POLICIES).default("late_binding").describe("Policy of models without a rule of their own"),
  listen: addressSchema.default("0.0.0.0:10000"),
  listeners: z.array(listenerSchema).default([]).describe("Further addresses of the gateway, and what serves there"),
  workers: z.union([z.literal("auto"), z.int().min(1).max(256)], {
    error: 'expected "auto" or a whole number from 1 to 256',
  }).default("auto")
    .describe("Data plane threads; auto: one less than the cores, at least one"),
  expose_endpoint: z.boolean().default(false).describe("Answer with x-aigw-endpoint"),
  retries: z.int().min(0).max(7).default(1)
    .describe(
      "Further endpoints tried before the first token of an answer: connection lost, no answer in time, 429, 500, 502, 503, 504, a rejection that a peer may not share; a refused connection is none of them",
    ),
  retry_budget: retryBudgetSchema,
  hedge: hedgeSchema,
  usage_accounting: z.boolean().default(true)
    .describe("Ask engines for the usage of every stream; who did not ask for it does not see it"),
  split_reasoning: splitReasoningSchema.default(false)
    .describe("Move a <think>…</think> that opens an answer to reasoning_content"),
  routes: z.array(pathSchema).default([]).describe("Further paths of the engines that are served"),
  cors: corsSchema.optional(),
  tls: tlsSchema.optional(),
  ext_proc: extProcSchema.optional().describe("Envoy asks the gateway where its requests go"),
  clusters: z.array(clusterSchema).default([]),
  clusters_file: z.string().min(1).optional().describe("JSON or YAML file with more clusters, relative to this file"),
  model_mapping_rule: modelMappingSchema.default({}),
  tokenizers: tokenizersSchema.default({}).describe(
    "By model: with its tokenizer, what engines tell of their caches is compared with the prompt's own tokens",
  ),
  kv_events: kvEventsSchema,
  lb_mapping_rule: z.record(z.string().min(1), loadBalancingSchema).default({}),
  admin: adminSchema,
  metadata_center: metadataCenterSchema,
  kubernetes: kubernetesSchema,
  xds: xdsSchema.optional().describe("A control plane that tells endpoints by xDS, as Istio's"),
  log: logSchema,
  reload: reloadSchema,
  limits: limitsSchema,
  timeouts: timeoutsSchema,
  probes: probesSchema,
  outliers: outliersSchema,
  prediction: predictionSchema,
  queue: queueSchema,
  admission: admissionSchema,
  saturation: saturationSchema,
  tenants: z.array(tenantSchema).default([]),
  tenancy: tenancySchema,
});

/** A validated configuration with every default filled in. */
export type Config = Omit<z.infer<typeof configSchema>, "clusters"> & {
  clusters: ClusterConfig[];
  /** What of a configuration that is read as Go reads it has no effect. */
  compat_notes?: string[];
};

/** One thing wrong with a configuration: where, and what is accepted there. */
export interface ConfigIssue {
  path: string;
  message: string;
}

/**
 * How the tenants' rows are given out: row 0 is the anonymous one, then come those of the config, and from `others` on
 * those that trusted names which are not configured share by their hash.
 */
export function tenantRows(limit: number): { configured: number; others: number } {
  const others = limit - Math.max(1, Math.floor(limit / 4));
  return { configured: others - 1, others };
}

/** Listeners that have one address. */
export function addressIssues(
  { listen, listeners, tls, ext_proc, admin, metadata_center: center }: Config,
): ConfigIssue[] {
  const issues: ConfigIssue[] = [];
  const keys = new Map<string, string>();
  const addresses: [key: string, address: string | undefined][] = [
    ["listen", listen],
    ...listeners.map(({ address }, i): [string, string] => [`listeners[${i}].address`, address]),
    ["tls.listen", tls?.listen],
    ["ext_proc.listen", ext_proc?.listen],
    ["admin.listen", admin.listen],
    ["metadata_center.listen", center.listen],
  ];
  for (const [path, address] of addresses) {
    if (address === undefined || address.endsWith(":0")) continue;
    const other = keys.get(address);
    if (other) issues.push({ path, message: `${address} is the address of ${other} too` });
    keys.set(address, path);
  }
  return issues;
}

function checkTenants({ tenants, limits, model_mapping_rule }: Config): ConfigIssue[] {
  const issues: ConfigIssue[] = [];
  const [names, keys] = [new Set<string>(), new Set<string>()];
  tenants.forEach(({ name, keys_sha256, models }, i) => {
    const path = `tenants[${i}]`;
    if (names.has(name)) issues.push({ path: `${path}.name`, message: `there are two tenants named "${name}"` });
    if (name === "anonymous" || name === "other") {
      issues.push({ path: `${path}.name`, message: `"${name}" stands for those who are not configured` });
    }
    names.add(name);
    keys_sha256.forEach((key, k) => {
      const digest = key.toLowerCase();
      if (keys.has(digest)) issues.push({ path: `${path}.keys_sha256[${k}]`, message: "this key is listed twice" });
      keys.add(digest);
    });
    models?.forEach((model, k) => {
      if (Object.hasOwn(model_mapping_rule, model)) return;
      const known = Object.keys(model_mapping_rule).join(", ") || "none";
      issues.push({ path: `${path}.models[${k}]`, message: `no model "${model}"; there are: ${known}` });
    });
  });
  const max = tenantRows(limits.tenants).configured;
  if (tenants.length > max) {
    issues.push({
      path: "tenants",
      message: `${tenants.length} tenants, at most ${max}: limits.tenants is ${limits.tenants}, one of them the ` +
        `anonymous and a quarter those that are not configured`,
    });
  }
  return issues;
}

/** What relates sections to each other: names that must exist, sums that must fit the limits. */
export function checkRelations(config: Config): ConfigIssue[] {
  const issues: ConfigIssue[] = [];
  const { limits } = config;
  config.routes.forEach(({ path }, i) => {
    if (!INFERENCE_PATHS.has(path) && !/^\/(?:health$|v1\/(?:models|responses)(?:\/|$))/.test(path)) return;
    issues.push({ path: `routes[${i}].path`, message: `${path} is served already` });
  });
  const discovered = config.clusters.some(({ discover_models }) => discover_models) || config.xds !== undefined;
  for (const model of Object.keys(config.tokenizers)) {
    if (discovered || config.model_mapping_rule[model] !== undefined) continue;
    issues.push({ path: `tokenizers.${model}`, message: "there is no such model in model_mapping_rule" });
  }
  const clusters = new Map<string, ClusterConfig>();
  let groups = 0;
  config.clusters.forEach((cluster, i) => {
    if (clusters.has(cluster.name)) {
      issues.push({ path: `clusters[${i}].name`, message: `there are two clusters named "${cluster.name}"` });
    }
    clusters.set(cluster.name, cluster);
    if (cluster.xds.length > 0 && config.xds === undefined) {
      issues.push({ path: `clusters[${i}].xds`, message: "no control plane is named: xds.server" });
    }
    if (cluster.api_key_file !== undefined && cluster.api_key_env !== undefined) {
      issues.push({ path: `clusters[${i}]`, message: "api_key_file or api_key_env, not both" });
    }
    if (cluster.discover_models && cluster.backend === "triton") {
      issues.push({ path: `clusters[${i}].discover_models`, message: "Triton lists no models in /v1/models" });
    }
    groups += Math.ceil(cluster.endpoints.length / 16);
    const seen = new Set<string>();
    cluster.endpoints.forEach((endpoint, k) => {
      const key = `${endpoint.address}:${endpoint.port}`;
      if (seen.has(key)) {
        issues.push({ path: `clusters[${i}].endpoints[${k}]`, message: `${key} is listed twice in this cluster` });
      }
      seen.add(key);
    });
  });
  if (config.clusters.length > limits.clusters) {
    issues.push({
      path: "clusters",
      message: `${config.clusters.length} clusters, limits.clusters is ${limits.clusters}`,
    });
  }
  if (groups * 16 > limits.endpoints) {
    issues.push({
      path: "clusters",
      message: `the endpoints take ${
        groups * 16
      } rows (groups of 16 a cluster), limits.endpoints is ${limits.endpoints}`,
    });
  }
  issues.push(...addressIssues(config), ...checkTenants(config));
  const models = Object.entries(config.model_mapping_rule);
  if (models.length > limits.models) {
    issues.push({ path: "model_mapping_rule", message: `${models.length} models, limits.models is ${limits.models}` });
  }
  const labelSets = new Map<string, Set<string>>();
  const backends = new Map<string, { backend: string; path: string }>();
  config.clusters.forEach(({ name, backend }, i) => {
    if (backend !== undefined) backends.set(name, { backend, path: `clusters[${i}]` });
  });
  for (const [model, { rules }] of models) {
    const path = `model_mapping_rule.${model}`;
    if (/[\r\n]/.test(model)) issues.push({ path, message: "a model name has no line breaks" });
    rules.forEach((rule, i) => {
      if (!clusters.has(rule.cluster)) {
        const known = [...clusters.keys()].join(", ") || "none";
        issues.push({
          path: `${path}.rules[${i}].cluster`,
          message: `no cluster "${rule.cluster}"; there are: ${known}`,
        });
      }
      const other = backends.get(rule.cluster);
      if (other !== undefined && other.backend !== rule.backend) {
        issues.push({
          path: `${path}.rules[${i}].backend`,
          message:
            `the engines of cluster "${rule.cluster}" are "${other.backend}" by ${other.path}, not "${rule.backend}"`,
        });
      } else backends.set(rule.cluster, { backend: rule.backend, path: `${path}.rules[${i}]` });
      const ranks = clusters.get(rule.cluster)?.data_parallel_ranks ?? 1;
      if (rule.backend === "triton" && ranks > 1) {
        issues.push({
          path: `${path}.rules[${i}].backend`,
          message: `Triton knows no ranks, and the cluster "${rule.cluster}" has data_parallel_ranks: ${ranks}`,
        });
      }
      const grpc = rule.backend === "triton" && rule.triton?.protocol !== "http";
      if (grpc && clusters.get(rule.cluster)?.tls) {
        issues.push({
          path: `${path}.rules[${i}].triton.protocol`,
          message: `"grpc" goes in cleartext, and cluster "${rule.cluster}" has tls: use "http"`,
        });
      }
      if (rule.triton && rule.backend !== "triton") {
        issues.push({ path: `${path}.rules[${i}].triton`, message: 'only a rule with the backend "triton" has it' });
      }
      if (rule.subset.length > 0 && !rule.subset.some((subset) => subset.weight > 0)) {
        issues.push({ path: `${path}.rules[${i}].subset`, message: "at least one subset needs a weight above 0" });
      }
      const sets = labelSets.get(rule.cluster) ?? new Set();
      labelSets.set(rule.cluster, sets);
      for (const subset of rule.subset) if (Object.keys(subset.labels).length > 0) sets.add(labelKey(subset.labels));
    });
    if (rules.filter((rule) => rule.headers.length === 0).length > 1) {
      issues.push({ path: `${path}.rules`, message: "only one rule may have no headers: it is the default" });
    }
  }
  for (const [cluster, sets] of labelSets) {
    if (sets.size > MAX_LABEL_SETS) {
      issues.push({
        path: "model_mapping_rule",
        message: `${sets.size} different label sets on cluster "${cluster}", at most ${MAX_LABEL_SETS}`,
      });
    }
  }
  for (const model of Object.keys(config.lb_mapping_rule)) {
    if (!(model in config.model_mapping_rule)) {
      issues.push({ path: `lb_mapping_rule.${model}`, message: "there is no such model in model_mapping_rule" });
    }
  }
  return issues;
}

/** What is no error and yet probably not meant: each a line for an operator. */
export function configNotes(config: Config): string[] {
  const clusters = new Map(config.clusters.map((cluster) => [cluster.name, cluster]));
  const notes = config.clusters.filter((cluster) => !hasEndpoints(cluster))
    .map(({ name }) => `cluster "${name}" has no endpoints; its models answer 503`);
  notes.push(...config.compat_notes ?? []);
  const ruled = new Set(
    Object.values(config.model_mapping_rule).flatMap(({ rules }) => rules.map((rule) => rule.cluster)),
  );
  for (const { name, discover_models } of config.clusters) {
    if (!ruled.has(name) && !discover_models) {
      notes.push(`cluster "${name}" serves nothing: no rule names it, and it has no discover_models`);
    }
  }
  const secured = config.tenants.some(({ keys_sha256 }) => keys_sha256.length > 0);
  const host = parseAddress(config.listen)?.hostname ?? "";
  if (!secured && !isLoopback(host)) {
    const as = config.tenancy.trust_headers ? "as any tenant that it says it is" : 'as the tenant "anonymous"';
    notes.push(`no tenant has a key: whoever reaches ${config.listen} may use the gateway, ${as}`);
  }
  const models = Object.entries(config.model_mapping_rule);
  if (models.length === 0 && !config.clusters.some((cluster) => cluster.discover_models)) {
    notes.push("model_mapping_rule is empty; every model answers 404");
  }
  if (Object.hasOwn(config.model_mapping_rule, "*")) {
    notes.push('model_mapping_rule."*" serves every model that has no rules of its own, whatever its name');
  }
  for (const [model, { rules }] of models) {
    for (const [i, { cluster, subset }] of rules.entries()) {
      const endpoints = clusters.get(cluster)?.endpoints ?? [];
      for (const [k, { labels }] of subset.entries()) {
        const wanted = Object.entries(labels);
        const fits = endpoints.some((endpoint) => wanted.every(([key, value]) => endpoint.labels[key] === value));
        if (endpoints.length === 0 || fits || hasSources(clusters.get(cluster)!)) continue;
        const text = wanted.map(([key, value]) => `${key}=${value}`).join(", ");
        const path = `model_mapping_rule.${model}.rules[${i}].subset[${k}].labels`;
        notes.push(`${path}: no endpoint of cluster "${cluster}" carries ${text}; its requests answer 503`);
      }
    }
  }
  return notes;
}

// Whether its endpoints are told by somebody else too.
function hasSources({ dns, kubernetes, xds }: ClusterConfig): boolean {
  return dns.length + kubernetes.length + xds.length > 0;
}

function hasEndpoints(cluster: ClusterConfig): boolean {
  return cluster.endpoints.length > 0 || hasSources(cluster);
}

/** One string for a label set, the same for every order of its keys. */
export function labelKey(labels: Record<string, string>): string {
  return JSON.stringify(Object.entries(labels).sort(([a], [b]) => (a < b ? -1 : 1)));
}
