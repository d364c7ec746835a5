// SPDX-License-Identifier: Apache-2.0
// Reads the configuration of the Go gateway, as it stands in an Envoy bootstrap or an EnvoyFilter, and what is told there
// or in a ServiceEntry or a clusters.json of its endpoints. What comes out is a configuration of ours that does the same,
// and notes on all that has no counterpart.
//
// Go reads it as protobuf JSON: field names in either spelling, numbers as text, null for nothing. A field of a
// lb_mapping_rule that is not set there is false or 0, not a default: here each is written out.

import { BACKENDS } from "./models.ts";

type Fields = Readonly<Record<string, unknown>>;

export interface Imported {
  readonly config: Record<string, unknown>;
  readonly notes: readonly string[];
  /** Configurations of Go's plugin found; with none there is nothing to import. */
  readonly plugins: number;
}

interface Endpoint {
  address: string;
  port: number;
  labels?: Record<string, string>;
}

/** Where Go writes texts unless told otherwise. */
const GO_LOG = "/home/admin/logs/llm.log";

const ALGORITHMS: Readonly<Record<string, string>> = {
  inferencelb: "inference_lb",
  roundrobin: "round_robin",
  random: "random",
  leastrequest: "least_request",
};

/** Reads documents of Go's gateway, whatever else is among them. */
export function importGo(documents: readonly unknown[]): Imported {
  const reading = new Reading();
  for (const document of documents) reading.document(document);
  return reading.result();
}

/**
 * Reads the sections of a configuration of ours that Go's plugin has too as Go does. What only ours knows stays as it is.
 * `notes` tell what Go would ignore.
 */
export function readAsGo(document: unknown): { config: unknown; notes: string[] } {
  const fields = fieldsOf(document);
  if (!fields) return { config: document, notes: [] };
  const own = Object.entries(fields).filter(([key]) => !GO_SECTIONS.has(snake(key)));
  const sections = Object.entries(fields).filter(([key]) => GO_SECTIONS.has(snake(key)));
  const reading = new Reading(true);
  reading.plugin(Object.fromEntries(sections));
  const { config, notes } = reading.result();
  const { clusters: _, ...read } = config;
  return {
    config: { ...Object.fromEntries(own), ...read },
    notes: notes.filter((note) => !note.startsWith("cluster ")),
  };
}

const GO_SECTIONS = new Set(["protocol", "algorithm", "model_mapping_rule", "lb_mapping_rule"]);

class Reading {
  readonly #notes = new Set<string>();
  readonly #clusters = new Map<string, Endpoint[]>();
  readonly #wanted = new Set<string>();
  readonly #models: Record<string, unknown> = {};
  readonly #balancing: Record<string, unknown> = {};
  readonly #top: Record<string, unknown> = {};
  #plugins = 0;

  /** @param ours Keys that only ours knows stay. */
  constructor(readonly ours = false) {}

  #note(text: string): void {
    this.#notes.add(text);
  }

  document(document: unknown): void {
    const fields = fieldsOf(document);
    if (!fields) return;
    if (fields.kind === "ServiceEntry") this.#serviceEntry(fields);
    for (const cluster of listOf(fields.clusters)) this.#cluster(fieldsOf(cluster) ?? {});
    const resources = fieldsOf(get(fields, "static_resources"));
    for (const cluster of listOf(resources?.clusters)) this.#envoyCluster(fieldsOf(cluster) ?? {});
    for (const listener of listOf(resources?.listeners)) {
      const before = this.#plugins;
      this.#search(listener);
      const address = fieldsOf(get(fieldsOf(get(fieldsOf(listener), "address")), "socket_address"));
      const port = numberOf(get(address, "port_value"));
      if (this.#plugins > before && port !== undefined) this.#top.listen ??= `${get(address, "address")}:${port}`;
    }
    if (resources) this.#search({ ...resources, listeners: undefined });
    else this.#search(fields);
    if (fields.admin !== undefined) this.#note("admin: left out; ours is admin.listen, 127.0.0.1:15000 by default");
  }

  /** Looks for the plugin anywhere; Envoy nests it deep, and differently in each kind of file. */
  #search(value: unknown): void {
    if (Array.isArray(value)) {
      for (const item of value) this.#search(item);
      return;
    }
    const fields = fieldsOf(value);
    if (!fields) return;
    if (get(fields, "model_mapping_rule") !== undefined) return this.plugin(fields);
    if (get(fields, "retry_policy") !== undefined) {
      this.#note("retry_policy: left out; connect failures, 502, 503 and 504 move to another endpoint within a budget");
    }
    for (const item of Object.values(fields)) this.#search(item);
  }

  plugin(plugin: Fields): void {
    this.#plugins++;
    this.#unknown(plugin, "the plugin", ["protocol", "algorithm", "model_mapping_rule", "log", "lb_mapping_rule"]);
    const protocol = get(plugin, "protocol") ?? "openai";
    if (protocol !== "openai") this.#note(`protocol: ${protocol} has no counterpart, openai is served`);
    const algorithm = get(plugin, "algorithm");
    if (typeof algorithm === "string") this.#algorithm(algorithm);
    for (const [model, rules] of Object.entries(fieldsOf(get(plugin, "model_mapping_rule")) ?? {})) {
      const kept = listOf(get(fieldsOf(rules), "rules")).flatMap((rule, i) =>
        this.#rule(fieldsOf(rule) ?? {}, `model_mapping_rule.${model}.rules[${i}]`)
      );
      if (kept.length > 0) this.#models[model] = { rules: kept };
      else this.#note(`model_mapping_rule.${model}: no rule of it has a counterpart`);
    }
    for (const [model, rule] of Object.entries(fieldsOf(get(plugin, "lb_mapping_rule")) ?? {})) {
      if (this.#models[model] === undefined) this.#note(`lb_mapping_rule.${model}: left out, no rule maps that model`);
      else this.#balancing[model] = this.#balance(fieldsOf(rule) ?? {}, `lb_mapping_rule.${model}`);
    }
    const { enabled, path } = fieldsOf(get(plugin, "log")) ?? {};
    if (enabled === true) {
      this.#top.log = { llm: { enabled, path: textOf(path) || GO_LOG } };
      this.#note("log: Go's is the log of texts, log.llm here; log.enabled is the access log");
    }
  }

  #algorithm(algorithm: string): void {
    const known = ALGORITHMS[algorithm.toLowerCase().replace(/[^a-z]/g, "")];
    if (known === undefined) this.#note(`algorithm: ${algorithm} is not known; round_robin, as in Go`);
    this.#top.algorithm = known ?? "round_robin";
    if (known === "inference_lb") this.#note("algorithm: inference_lb is kept; without that line late binding decides");
  }

  #rule(rule: Fields, where: string): unknown[] {
    const known = ["weight", "scene_name", "chain_name", "backend", "route_name", "headers", "subset", "cluster"];
    this.#unknown(rule, where, known, RULE_KEYS);
    const headers = listOf(rule.headers).map((header) => fieldsOf(header) ?? {});
    const odd = headers.find(({ key }) => /^:(?!(path|method|authority)$)/.test(String(key)));
    if (odd) {
      this.#note(
        `${where}: left out, it matches ${odd.key}; of the pseudo-headers there are :path, :method, :authority`,
      );
      return [];
    }
    if ((numberOf(get(rule, "weight")) ?? 0) !== 0) this.#note(`${where}.weight: left out, Go does not read it either`);
    const cluster = textOf(get(rule, "cluster"));
    this.#wanted.add(cluster);
    const written: Record<string, unknown> = { backend: this.#backend(get(rule, "backend"), where), cluster };
    for (const name of ["scene_name", "chain_name", "route_name"]) {
      const text = textOf(get(rule, name));
      if (text !== "") written[name] = text;
    }
    if (headers.length > 0) {
      written.headers = headers.map(({ key, value }) => ({ key: textOf(key), value: textOf(value) }));
    }
    const [first, ...others] = listOf(rule.subset).map((subset) => fieldsOf(subset) ?? {});
    if (others.length > 0) this.#note(`${where}.subset: only the first is kept, Go reads no other`);
    if (first) written.subset = [this.#subset(first, `${where}.subset[0]`)];
    return [{ ...written, ...this.#kept(rule, RULE_KEYS) }];
  }

  #backend(backend: unknown, where: string): string {
    const name = textOf(backend) || "triton";
    if ((BACKENDS as readonly string[]).includes(name)) return name;
    this.#note(`${where}.backend: ${name} has no counterpart; openai`);
    return "openai";
  }

  #subset(subset: Fields, where: string): unknown {
    this.#unknown(subset, where, ["name", "labels", "lora", "weight"]);
    const written: Record<string, unknown> = {};
    for (const name of ["name", "lora"]) if (textOf(subset[name]) !== "") written[name] = textOf(subset[name]);
    const labels = labelsOf(subset.labels);
    return labels ? { ...written, labels } : written;
  }

  #balance(rule: Fields, where: string): unknown {
    const flags = ["load_aware_enable", "cache_aware_enable"];
    const numbers = ["candidate_percent", "request_load_weight", "prefill_load_weight", "cache_radio_weight"];
    this.#unknown(rule, where, [...flags, ...numbers], BALANCE_KEYS);
    const written: Record<string, unknown> = {};
    for (const name of flags) written[name] = get(rule, name) === true;
    for (const name of numbers) written[name] = numberOf(get(rule, name)) ?? 0;
    const unset = [...flags, ...numbers].filter((name) => get(rule, name) === undefined);
    if (unset.length > 0) this.#note(`${where}: ${unset.join(", ")} not set, which is false or 0 in Go, and here now`);
    return { ...written, ...this.#kept(rule, BALANCE_KEYS) };
  }

  #kept(fields: Fields, ours: readonly string[]): Record<string, unknown> {
    if (!this.ours) return {};
    return Object.fromEntries(ours.filter((key) => Object.hasOwn(fields, key)).map((key) => [key, fields[key]]));
  }

  #unknown(fields: Fields, where: string, known: readonly string[], ours: readonly string[] = []): void {
    for (const key of Object.keys(fields)) {
      if (this.ours && ours.includes(key)) continue;
      if (!known.includes(snake(key))) this.#note(`${where}.${key}: not known, left out`);
    }
  }

  /** Of a clusters.json. */
  #cluster({ name, endpoints }: Fields): void {
    this.#add(
      textOf(name),
      listOf(endpoints).map((endpoint) => {
        const { address, port, labels } = fieldsOf(endpoint) ?? {};
        return { address: textOf(address), port: numberOf(port) ?? 0, labels: labelsOf(labels) };
      }),
    );
  }

  #envoyCluster(cluster: Fields): void {
    const groups = listOf(get(fieldsOf(get(cluster, "load_assignment")), "endpoints"));
    const endpoints = groups.flatMap((group) => listOf(get(fieldsOf(group), "lb_endpoints"))).map((endpoint) => {
      const address = fieldsOf(get(fieldsOf(get(fieldsOf(endpoint), "endpoint")), "address"));
      const socket = fieldsOf(get(address, "socket_address"));
      return { address: textOf(get(socket, "address")), port: numberOf(get(socket, "port_value")) ?? 0 };
    });
    this.#add(textOf(cluster.name), endpoints);
  }

  /** Istio calls the cluster of a port of a host `outbound|PORT||HOST`. */
  #serviceEntry({ spec }: Fields): void {
    const { hosts, ports, endpoints } = fieldsOf(spec) ?? {};
    for (const host of listOf(hosts)) {
      for (const port of listOf(ports).map((port) => fieldsOf(port) ?? {})) {
        const number = numberOf(port.number);
        this.#add(
          `outbound|${number}||${host}`,
          listOf(endpoints).map((endpoint) => {
            const { address, labels, ports: own } = fieldsOf(endpoint) ?? {};
            const target = numberOf(fieldsOf(own)?.[textOf(port.name)]) ?? numberOf(get(port, "target_port")) ?? number;
            return { address: textOf(address), port: target ?? 0, labels: labelsOf(labels) };
          }),
        );
      }
    }
  }

  #add(name: string, endpoints: Endpoint[]): void {
    this.#clusters.set(name, [...this.#clusters.get(name) ?? [], ...endpoints.filter(({ port }) => port > 0)]);
  }

  result(): Imported {
    const clusters = [...this.#wanted].map((name) => {
      const endpoints = this.#clusters.get(name) ?? [];
      if (endpoints.length === 0) {
        this.#note(`cluster ${name}: its endpoints are not in these files; write them there, or name their source`);
      }
      return {
        name,
        endpoints: endpoints.map(({ labels, ...endpoint }) => labels ? { ...endpoint, labels } : endpoint),
      };
    });
    const config: Record<string, unknown> = { ...this.#top, clusters, model_mapping_rule: this.#models };
    if (Object.keys(this.#balancing).length > 0) config.lb_mapping_rule = this.#balancing;
    return { config, notes: [...this.#notes], plugins: this.#plugins };
  }
}

/** Keys of a rule, and of the balancing of a model, that Go does not know. */
const RULE_KEYS = ["target_model", "triton", "split_reasoning"];
const BALANCE_KEYS = [
  "algorithm",
  "lora_weight",
  "prefill_load_uncached",
  "prefill_load_floor_bytes",
  "ttft_slo_ms",
  "tpot_slo_ms",
];

function fieldsOf(value: unknown): Fields | undefined {
  return typeof value === "object" && value !== null && !Array.isArray(value) ? value as Fields : undefined;
}

function listOf(value: unknown): unknown[] {
  return Array.isArray(value) ? value : [];
}

/** A field by either of its names; undefined for null too. */
function get(fields: Fields | undefined, name: string): unknown {
  const camel = name.replace(/_([a-z])/g, (_, letter) => letter.toUpperCase());
  return fields?.[name] ?? fields?.[camel] ?? undefined;
}

function snake(key: string): string {
  return key.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}

function textOf(value: unknown): string {
  return value === undefined || value === null ? "" : String(value);
}

function numberOf(value: unknown): number | undefined {
  if (typeof value !== "number" && (typeof value !== "string" || value.trim() === "")) return undefined;
  const number = Number(value);
  return Number.isFinite(number) ? number : undefined;
}

function labelsOf(value: unknown): Record<string, string> | undefined {
  const entries = Object.entries(fieldsOf(value) ?? {});
  return entries.length === 0 ? undefined : Object.fromEntries(entries.map(([key, label]) => [key, textOf(label)]));
}
