// SPDX-License-Identifier: Apache-2.0
// The configuration of a file with what the mesh's routes say of models beside it: what the file itself says stays. A
// cluster that only the routes name has the endpoints of the host that it is called by.

import type { Clock } from "../base/clock.ts";
import { pause } from "../base/pause.ts";
import { readAsGo } from "../config/go_import.ts";
import { ConfigError, parseConfig } from "../config/load.ts";
import { checkRelations, type Config } from "../config/schema.ts";
import { watchConfigurations } from "../discovery/xds/routes.ts";
import { parseName } from "../discovery/xds/discovery.ts";
import type { XdsSessions } from "../discovery/xds/session.ts";
import type { Log } from "../telemetry/log.ts";
import type { ConfigSource } from "./reloader.ts";

const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 10_000;

/** Adds what routes say to a configuration. Throws ConfigError. */
export function withRoutes(config: Config, told: readonly Readonly<Record<string, unknown>>[], source: string): Config {
  let result = config;
  for (const one of told) {
    const { config: document } = readAsGo({ compat: "go", ...one }) as { config: { model_mapping_rule?: unknown } };
    const models = (document.model_mapping_rule ?? {}) as Record<string, { rules?: Rule[] }>;
    const rules = Object.values(models).flatMap((model) => model.rules ?? []);
    const known = new Set(result.clusters.map(({ name }) => name));
    const fresh = [...new Set(rules.map(({ cluster }) => cluster))].filter((name) => !known.has(name));
    const clusters = fresh.map((name) => ({ name, xds: [{ ...hostOf(name), subsets: subsetsOf(rules, name) }] }));
    const { compat: _, ...rest } = document as Record<string, unknown>;
    // Those that are known are there for the check of the relations alone.
    const parsed = parseConfig({
      ...rest,
      xds: config.xds,
      clusters: [...[...known].map((name) => ({ name })), ...clusters],
    }, source);
    result = {
      ...result,
      clusters: [...result.clusters, ...parsed.clusters.filter(({ name }) => !known.has(name))],
      model_mapping_rule: { ...parsed.model_mapping_rule, ...result.model_mapping_rule },
      lb_mapping_rule: { ...parsed.lb_mapping_rule, ...result.lb_mapping_rule },
    };
  }
  const issues = checkRelations(result);
  if (issues.length > 0) throw new ConfigError(source, issues);
  return result;
}

interface Rule {
  readonly cluster: string;
  readonly subset?: readonly { readonly name?: string; readonly labels?: Record<string, string> }[];
}

// A rule's subset is the one of that name in the host's DestinationRule, and its labels are those that it selects by.
function subsetsOf(rules: readonly Rule[], cluster: string): Record<string, Record<string, string>> {
  const subsets = rules.filter((rule) => rule.cluster === cluster).flatMap(({ subset }) => subset ?? []);
  return Object.fromEntries(subsets.flatMap(({ name, labels }) => name && labels ? [[name, labels]] : []));
}

// The host, or a cluster as Istio names it.
function hostOf(name: string): { host: string; port?: number } {
  const { host = name, port } = parseName(name) ?? {};
  return port === undefined ? { host } : { host, port };
}

/** Follows the routes of the mesh. */
export class XdsConfiguration {
  #told: readonly Record<string, unknown>[] = [];
  #watching:
    | { readonly sessions: XdsSessions; readonly abort: AbortController; readonly over: Promise<void> }
    | undefined;

  /** @param changed Is called when they say something else than before. */
  constructor(readonly clock: Clock, readonly log: Log, readonly changed: () => void) {}

  /** The same source with what routes say beside it. */
  beside(source: ConfigSource): ConfigSource {
    return {
      ...source,
      load: async () => {
        const config = await source.load();
        if (!config.xds?.configuration) return config;
        return withRoutes(config, this.#told, `routes of ${config.xds.server}`);
      },
    };
  }

  /** Routes are read from here from now on; undefined for nowhere. */
  set(sessions: XdsSessions | undefined): void {
    const wanted = sessions?.config.configuration ? sessions : undefined;
    if (this.#watching?.sessions === wanted) return;
    this.#watching?.abort.abort();
    this.#watching = undefined;
    this.#told = [];
    if (wanted === undefined) return;
    const abort = new AbortController();
    this.#watching = { sessions: wanted, abort, over: this.#follow(wanted, abort.signal) };
  }

  async #follow(sessions: XdsSessions, signal: AbortSignal): Promise<void> {
    let said = "";
    for (let pauseMs = FIRST_PAUSE_MS; !signal.aborted; pauseMs = Math.min(LONGEST_PAUSE_MS, 2 * pauseMs)) {
      try {
        for await (const told of watchConfigurations(sessions, signal)) {
          pauseMs = FIRST_PAUSE_MS;
          said = "";
          if (signal.aborted || JSON.stringify(told) === JSON.stringify(this.#told)) continue;
          this.#told = told;
          this.changed();
        }
      } catch (error) {
        const { message } = error as Error;
        if (!signal.aborted && message !== said) this.log.warn("the mesh's routes are not known", { error: message });
        said = message;
      }
      await pause(pauseMs, this.clock, signal);
    }
  }

  async stop(): Promise<void> {
    this.#watching?.abort.abort();
    await this.#watching?.over;
  }
}
