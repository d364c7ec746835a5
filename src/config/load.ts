// SPDX-License-Identifier: Apache-2.0
// Loading: file → YAML (JSON is a subset of it) → zod → clusters file → environment → relations. Whatever is wrong is
// reported at once, each with its path, what was found and what is accepted.

import { closestString } from "@std/text/closest-string";
import { levenshteinDistance } from "@std/text/levenshtein-distance";
import { parse as parseYaml } from "@std/yaml";
import { z } from "zod";
import { applyLogEnvironment } from "./log.ts";
import { applyCenterEnvironment } from "./metadata_center.ts";
import { readAsGo } from "./go_import.ts";
import { clustersFileSchema } from "./clusters.ts";
import { DEFAULT_PREFILL_FLOOR_BYTES } from "./models.ts";
import { checkRelations, type Config, type ConfigIssue, configSchema } from "./schema.ts";

/** A configuration that cannot be used; `message` lists every issue on a line of its own. */
export class ConfigError extends Error {
  override readonly name = "ConfigError";
  constructor(readonly source: string, readonly issues: ConfigIssue[]) {
    const lines = issues.map(({ path, message }) => `  ${path === "" ? "" : `${path}: `}${message}`);
    super(`${source}: ${issues.length === 1 ? "1 problem" : `${issues.length} problems`}\n${lines.join("\n")}`);
  }
}

/** Environment variables that override the config, by their existing names. */
export interface Environment {
  get(name: string): string | undefined;
}

/** Reads and validates a configuration file and the clusters file it names. Throws ConfigError. */
export async function loadConfig(path: string, environment: Environment = Deno.env): Promise<Config> {
  const config = validateConfig(await readDocument(path), path);
  if (config.clusters_file !== undefined) {
    config.clusters_file = resolveBeside(path, config.clusters_file);
    const { clusters } = validate(clustersFileSchema, await readDocument(config.clusters_file), config.clusters_file);
    config.clusters.push(...clusters.map((cluster) => ({ ...cluster, from_file: true })));
  }
  for (const cluster of config.clusters) {
    if (cluster.tls?.ca_file !== undefined) cluster.tls.ca_file = resolveBeside(path, cluster.tls.ca_file);
    if (cluster.api_key_file !== undefined) cluster.api_key_file = resolveBeside(path, cluster.api_key_file);
  }
  await resolvePems(path, "tls", config.tls);
  await resolvePems(path, "admin.tls", config.admin.tls);
  await resolvePems(path, "metadata_center.tls", config.metadata_center.tls);
  await resolvePems(path, "metadata_center.https", config.metadata_center.https);
  for (const section of [config.admin, config.metadata_center]) {
    if (section.token_file !== undefined) section.token_file = resolveBeside(path, section.token_file);
  }
  for (const section of [config.kubernetes, config.xds ?? {}] as { token_file?: string; ca_file?: string }[]) {
    for (const key of ["token_file", "ca_file"] as const) {
      if (section[key] !== undefined) section[key] = resolveBeside(path, section[key]);
    }
  }
  for (const files of Object.values(config.tokenizers)) {
    for (const key of ["file", "config_file", "chat_template_file"] as const) {
      if (files[key] !== undefined) files[key] = resolveBeside(path, files[key]);
    }
  }
  if (config.prediction.state_file !== undefined) {
    config.prediction.state_file = resolveBeside(path, config.prediction.state_file);
  }
  await readTemplates(config, path);
  applyEnvironment(config, environment);
  const issues = [...environmentIssues(config, environment), ...checkRelations(config)];
  if (issues.length > 0) throw new ConfigError(path, issues);
  return config;
}

/**
 * Validates a configuration that is already a value, without any file; the environment has its say if it is given. Throws
 * ConfigError.
 */
export function parseConfig(value: unknown, source = "config", environment?: Environment): Config {
  const config = validateConfig(value, source);
  const issues = checkRelations(config);
  if (environment) issues.unshift(...environmentIssues(config, environment));
  if (issues.length > 0) throw new ConfigError(source, issues);
  return config;
}

function validateConfig(value: unknown, source: string): Config {
  if ((value as { compat?: unknown } | null)?.compat !== "go") return validate(configSchema, value, source);
  const { config, notes } = readAsGo(value);
  return { ...validate(configSchema, config, source), compat_notes: notes };
}

function environmentIssues({ metadata_center, log }: Config, environment: Environment): ConfigIssue[] {
  return [...applyCenterEnvironment(metadata_center, environment), ...applyLogEnvironment(log, environment)];
}

/** JSON Schema of the configuration file, for editors. */
export function configJsonSchema(): Record<string, unknown> {
  return z.toJSONSchema(configSchema, { io: "input", target: "draft-2020-12" }) as Record<string, unknown>;
}

async function readDocument(path: string): Promise<unknown> {
  let text: string;
  try {
    text = await Deno.readTextFile(path);
  } catch (error) {
    const reason = error instanceof Deno.errors.NotFound ? "there is no such file" : (error as Error).message;
    throw new ConfigError(path, [{ path: "", message: `cannot be read: ${reason}` }]);
  }
  try {
    return parseYaml(text) ?? {};
  } catch (error) {
    throw new ConfigError(path, [{ path: "", message: `is neither YAML nor JSON: ${(error as Error).message}` }]);
  }
}

/** What a PEM file of each kind holds. */
const PEM = { cert_file: "CERTIFICATE", key_file: "PRIVATE KEY", ca_file: "CERTIFICATE" } as const;

async function resolvePems(
  path: string,
  section: string,
  files: { -readonly [file in keyof typeof PEM]?: string } | undefined,
): Promise<void> {
  for (const file of Object.keys(PEM) as (keyof typeof PEM)[]) {
    if (files?.[file] === undefined) continue;
    files[file] = resolveBeside(path, files[file]);
    await checkPem(path, `${section}.${file}`, files[file], PEM[file]);
  }
}

async function checkPem(source: string, key: string, file: string, label: string): Promise<void> {
  let message: string | undefined;
  try {
    const found = /-----BEGIN [A-Z ]*-----/.exec(await Deno.readTextFile(file))?.[0] ?? "none";
    if (!found.includes(label)) message = `${file} holds no PEM ${label.toLowerCase()} (first block: ${found})`;
  } catch (error) {
    message = `cannot be read: ${(error as Error).message}`;
  }
  if (message !== undefined) throw new ConfigError(source, [{ path: key, message }]);
}

// Chat templates in files of their own become part of the config, so that workers need no file.
async function readTemplates(config: Config, path: string): Promise<void> {
  for (const [model, { rules }] of Object.entries(config.model_mapping_rule)) {
    for (const [i, { triton }] of rules.entries()) {
      if (triton?.chat_template_file === undefined) continue;
      try {
        triton.chat_template_file = resolveBeside(path, triton.chat_template_file);
        triton.chat_template = await Deno.readTextFile(triton.chat_template_file);
      } catch (error) {
        const where = `model_mapping_rule.${model}.rules[${i}].triton.chat_template_file`;
        throw new ConfigError(path, [{ path: where, message: `cannot be read: ${(error as Error).message}` }]);
      }
    }
  }
}

/** Files that a loaded configuration was made of: what to look at for changes. */
export function filesOf(config: Config): string[] {
  const templates = Object.values(config.model_mapping_rule).flatMap(({ rules }) =>
    rules.map(({ triton }) => triton?.chat_template_file)
  );
  const access = config.clusters.flatMap(({ tls, api_key_file }) => [tls?.ca_file, api_key_file]);
  const files = [config.clusters_file, config.tls?.cert_file, config.tls?.key_file, ...access, ...templates];
  return [...new Set(files.filter((file) => file !== undefined))];
}

function resolveBeside(path: string, other: string): string {
  if (other.startsWith("/")) return other;
  const slash = path.lastIndexOf("/");
  return slash < 0 ? other : path.slice(0, slash + 1) + other;
}

function validate<T extends z.ZodType>(schema: T, value: unknown, source: string): z.infer<T> {
  const result = schema.safeParse(value, { reportInput: true });
  if (result.success) return result.data;
  throw new ConfigError(source, result.error.issues.flatMap((issue) => describe(schema, issue)));
}

function describe(schema: z.ZodType, issue: z.core.$ZodIssue): ConfigIssue[] {
  if (issue.code === "unrecognized_keys") {
    const known = knownKeys(schema, issue.path);
    return issue.keys.map((key) => ({
      path: formatPath([...issue.path, key]),
      message: `unknown key${suggest(key, known)}`,
    }));
  }
  const shown = issue.input === undefined || typeof issue.input === "object"
    ? ""
    : ` (found ${JSON.stringify(issue.input)})`;
  return [{ path: formatPath(issue.path), message: `${issue.message.replace(/^Invalid input: /, "")}${shown}` }];
}

function suggest(key: string, known: string[]): string {
  if (known.length === 0) return "";
  const nearest = closestString(key, known) as string;
  const close = nearest.includes(key) || key.includes(nearest) ||
    levenshteinDistance(key, nearest) <= Math.max(2, key.length / 2);
  return close ? `; did you mean "${nearest}"?` : `; accepted here: ${known.join(", ")}`;
}

// The keys that the schema accepts at a path, found by walking its JSON Schema.
function knownKeys(schema: z.ZodType, path: PropertyKey[]): string[] {
  type Node = { properties?: Record<string, Node>; additionalProperties?: Node | boolean; items?: Node };
  let node = z.toJSONSchema(schema, { io: "input" }) as Node | undefined;
  for (const step of path) {
    if (!node) return [];
    if (typeof step === "number") node = node.items;
    else node = node.properties?.[String(step)] ?? (node.additionalProperties as Node | undefined);
  }
  return Object.keys(node?.properties ?? {});
}

/** `clusters[0].endpoints[1].port` */
function formatPath(path: PropertyKey[]): string {
  return path.map((step, i) => typeof step === "number" ? `[${step}]` : `${i === 0 ? "" : "."}${String(step)}`).join(
    "",
  );
}

/** Share of the candidates, in percent, when neither the model's rule nor the environment says another. */
export const DEFAULT_CANDIDATE_PERCENT = 5;

function applyEnvironment(config: Config, environment: Environment): void {
  const split = environment.get("AIGW_AI_PROXY_SPLIT_REASONING");
  if (split !== undefined && split !== "") config.split_reasoning = split === "true";
  if (environment.get("AIGW_USE_MOVING_AVERAGE") === "enable") config.prediction.method = "moving_average";
  const name = "HTNN_AIGW_INFER_LB_CANDIDATE_PERCENT";
  const text = environment.get(name);
  if (text === undefined || text === "") return;
  const percent = Number(text);
  if (!(percent >= 0 && percent <= 100)) {
    throw new ConfigError("environment", [{
      path: name,
      message: `expected a number from 0 to 100 (found "${text}")`,
    }]);
  }
  for (const model of Object.keys(config.model_mapping_rule)) {
    const rule = config.lb_mapping_rule[model] ??= {
      load_aware_enable: true,
      cache_aware_enable: true,
      request_load_weight: 1,
      prefill_load_weight: 3,
      cache_radio_weight: 2,
      lora_weight: 1,
      prefill_load_uncached: false,
      prefill_load_floor_bytes: DEFAULT_PREFILL_FLOOR_BYTES,
    };
    rule.candidate_percent ??= percent;
  }
}
