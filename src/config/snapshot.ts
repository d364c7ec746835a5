// SPDX-License-Identifier: Apache-2.0
// The state that requests are served by: the configuration with everything that it names resolved. It is immutable and
// crosses threads as one message; a request takes the one that is in force when it begins, and keeps it to its end.
//
// Rows of the shared memory belong to names (src/tables/registry.ts), so what a name has gathered stays its own when the
// configuration changes around it.

import { MEMORY_LIMITS } from "./sections.ts";
import type { Config } from "./schema.ts";

/** Rows and bits by name. */
export interface SnapshotRows {
  readonly clusters: ReadonlyMap<string, number>;
  readonly models: ReadonlyMap<string, number>;
  readonly tenants: ReadonlyMap<string, number>;
  /** Of each cluster: eligibility bits by the key of a label set. */
  readonly labels: ReadonlyMap<string, ReadonlyMap<string, number>>;
}

/** How a cluster's engines are reached, with the files that the config names read. */
export interface ClusterAccess {
  readonly tls: { readonly caCerts: string[]; readonly serverName: string | undefined } | undefined;
  readonly basePath: string;
  /** Value of the Authorization field; a secret. */
  readonly authorization: string | undefined;
  readonly forwardCredentials: boolean;
  /** Data-parallel ranks behind each address. */
  readonly ranks: number;
}

/** What engines say of a model that they list. */
export interface ModelFacts {
  /** Longest prompt and answer in tokens, the least of its engines'; undefined when none says. */
  readonly maxModelLen: number | undefined;
}

/** A LoRA adapter that engines have. */
export interface KnownAdapter {
  readonly name: string;
  /** Its base model, as clients name it. */
  readonly model: string;
  /** Whether engines list it: then those that do not cannot serve it. */
  readonly listed: boolean;
}

export interface Snapshot {
  /** Grows with each snapshot of a process. */
  readonly version: number;
  /** Ms since the epoch, when it came into force. */
  readonly since: number;
  readonly config: Config;
  readonly rows: SnapshotRows;
  readonly access: ReadonlyMap<string, ClusterAccess>;
  readonly facts: ReadonlyMap<string, ModelFacts>;
  /** LoRA adapters of engines. */
  readonly adapters: readonly KnownAdapter[];
}

export interface NameChanges {
  readonly added: readonly string[];
  readonly removed: readonly string[];
}

/** What differs between two configurations. */
export interface ConfigDiff {
  readonly clusters: NameChanges;
  readonly models: NameChanges;
  readonly tenants: NameChanges;
  /** Sections whose values differ, those above included. */
  readonly sections: readonly string[];
  /** Paths of changed values that a running process cannot take on: it keeps its own until it is started anew. */
  readonly restart: readonly string[];
}

/** Values that are fixed for the life of a process: addresses, threads, and what the shared memory is planned from. */
const FIXED: readonly string[] = [
  "listen",
  "listeners",
  "tls.listen",
  "ext_proc.listen",
  "ext_proc.streams_per_connection",
  "admin",
  "workers",
  "metadata_center",
  "prediction.method",
  "prediction.state_file",
  ...MEMORY_LIMITS.map((key) => `limits.${key}`),
];

/** What changes from one configuration to another. */
export function diff(before: Config, after: Config): ConfigDiff {
  const names = (of: (config: Config) => string[]): NameChanges => {
    const [old, fresh] = [new Set(of(before)), new Set(of(after))];
    return {
      added: [...fresh].filter((name) => !old.has(name)),
      removed: [...old].filter((name) => !fresh.has(name)),
    };
  };
  const [old, fresh] = [settings(before), settings(after)];
  const sections = Object.keys({ ...old, ...fresh }).filter((key) =>
    JSON.stringify(old[key as keyof Config]) !== JSON.stringify(fresh[key as keyof Config])
  );
  return {
    clusters: names(({ clusters }) => clusters.map(({ name }) => name)),
    models: names(({ model_mapping_rule }) => Object.keys(model_mapping_rule)),
    tenants: names(({ tenants }) => tenants.map(({ name }) => name)),
    sections,
    restart: FIXED.filter((path) => JSON.stringify(valueAt(before, path)) !== JSON.stringify(valueAt(after, path))),
  };
}

// Without the endpoints of the clusters_file, which come and go by themselves.
function settings(config: Config): Config {
  return { ...config, clusters: config.clusters.map((one) => one.from_file ? { ...one, endpoints: [] } : one) };
}

/** The new configuration with the values of the running process where these cannot change. */
export function keepFixed(running: Config, wanted: Config): Config {
  const kept = structuredClone(wanted);
  for (const path of FIXED) {
    const [section, key] = path.split(".") as [keyof Config, string | undefined];
    if (key === undefined) Object.assign(kept, { [section]: running[section] });
    else if (running[section] !== undefined && kept[section] !== undefined) {
      Object.assign(kept[section] as object, { [key]: valueAt(running, path) });
    } else Object.assign(kept, { [section]: running[section] }); // a listener that comes or goes
  }
  return kept;
}

function valueAt(config: Config, path: string): unknown {
  let value: unknown = config;
  for (const key of path.split(".")) value = (value as Record<string, unknown> | undefined)?.[key];
  return value;
}
