// SPDX-License-Identifier: Apache-2.0
// A snapshot of a configuration without a control plane: rows in the order of the configuration.

import { readAccess } from "../../src/config/access.ts";
import type { Config } from "../../src/config/schema.ts";
import type { Snapshot, SnapshotRows } from "../../src/config/snapshot.ts";
import { labelSetsOf } from "../../src/scheduler/eligibility.ts";

/** The first label set's bit. */
const FIRST_LABEL_MASK = 8;

function rowsOf(config: Config): SnapshotRows {
  const { clusters, model_mapping_rule } = config;
  const numbered = (names: string[]) => new Map(names.map((name, i) => [name, i]));
  return {
    clusters: numbered(clusters.map(({ name }) => name)),
    models: numbered(Object.keys(model_mapping_rule)),
    tenants: tenantRowsOf(config),
    labels: new Map(clusters.map(({ name }) => [
      name,
      new Map([...labelSetsOf(config, name).keys()].map((key, i) => [key, FIRST_LABEL_MASK << i])),
    ])),
  };
}

/** Rows of tenants. */
export function tenantRowsOf({ tenants }: Config): Map<string, number> {
  return new Map(["anonymous", ...tenants.map(({ name }) => name)].map((name, i) => [name, i]));
}

export async function snapshotOf(config: Config): Promise<Snapshot> {
  return {
    version: 1,
    since: 0,
    config,
    rows: rowsOf(config),
    access: await readAccess(config),
    facts: new Map(),
    adapters: [],
  };
}
