// SPDX-License-Identifier: Apache-2.0
// The configuration of a file with what the mesh's routes say of models beside it: what the file itself says stays. A
// cluster that only the routes name has the endpoints of the host that it is called by.

import type { Clock } from "../base/clock.ts";
import { keepTrying } from "../base/keep_trying.ts";
import { pause } from "../base/pause.ts";
import { readAsGo } from "../config/go_import.ts";
import { ConfigError, parseConfig } from "../config/load.ts";
import { checkRelations, type Config } from "../config/schema.ts";
import { watchConfigurations } from "../discovery/xds/routes.ts";
import { parseName } from "../discovery/xds/discovery.ts";
import type { XdsSessions } from "../discovery/xds/session.ts";
import type { Log } from "../telemetry/log.ts";
import type { ConfigSource } from "./reloader.ts";

const PAUSES = { firstMs: 500, longestMs: 10_000 };

/** Adds what routes say to a configuration; of two that name a model the first counts. Throws ConfigError. */
export function withRoutes(config: Config, told: readonly Readonly<Record<string, unknown>>[], source: string): Config {
  const models: Record<string, { rules?: Rule[] }> = {};
  const balancing: Record<string, unknown> = {};
  for (const one of [...told].reverse()) {
    const { config: document } = readAsGo({ compat: "go", ...one }) as { config: Record<string, object | undefined> };
    Object.assign(models, document.model_mapping_rule);
    Object.assign(balancing, document.lb_mapping_rule);
  }
  // What the file says of a model stays, how its requests are balanced among it.
  for (const name of Object.keys(config.model_mapping_rule)) {
    delete models[name];
    delete balancing[name];
  }
  const rules = Object.values(models).flatMap((model) => model.rules ?? []);
  const known = new Set(config.clusters.map(({ name }) => name));
  const fresh = [...new Set(rules.map(({ cluster }) => cluster))].filter((name) => !known.has(name));
  const clusters = fresh.map((name) => ({ name, xds: [{ ...hostOf(name), subsets: subsetsOf(rules, name) }] }));
  // Those that are known are there for the check of the relations alone.
  const parsed = parseConfig({
    limits: config.limits,
    xds: config.xds,
    clusters: [...[...known].map((name) => ({ name })), ...clusters],
    model_mapping_rule: models,
    lb_mapping_rule: balancing,
  }, source);
  const result = {
    ...config,
    clusters: [...config.clusters, ...parsed.clusters.filter(({ name }) => !known.has(name))],
    model_mapping_rule: { ...parsed.model_mapping_rule, ...config.model_mapping_rule },
    lb_mapping_rule: { ...parsed.lb_mapping_rule, ...config.lb_mapping_rule },
  };
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
function hostOf(name: string): { host: string; port?: number; subset?: string } {
  const { host = name, port, subset } = parseName(name) ?? {};
  return { host, ...(port !== undefined && { port }), ...(subset && { subset }) };
}

/** Follows the routes of the mesh. */
export class XdsConfiguration {
  #told: readonly Record<string, unknown>[] = [];
  /** What was told last that could be served. */
  #good: readonly Record<string, unknown>[] = [];
  #watching:
    | { readonly sessions: XdsSessions; readonly abort: AbortController; readonly over: Promise<void> }
    | undefined;
  /** Resolves when routes have been told and taken, or cannot be. */
  readonly #first = Promise.withResolvers<void>();

  /** @param changed Is called when they say something else than before; resolves when that is in force, or refused. */
  constructor(readonly clock: Clock, readonly log: Log, readonly changed: () => Promise<unknown>) {}

  /** The same source with what routes say beside it. */
  beside(source: ConfigSource): ConfigSource {
    return { ...source, load: async () => this.#overlay(await source.load()) };
  }

  // With routes that cannot be served the file's own changes still apply, beside what was told before.
  #overlay(config: Config): Config {
    if (!config.xds?.configuration) return config;
    const name = `routes of ${config.xds.server}`;
    try {
      const result = withRoutes(config, this.#told, name);
      this.#good = this.#told;
      return result;
    } catch (error) {
      if (!(error instanceof ConfigError)) throw error;
      this.log.error("what the mesh's routes say is refused; what they said before stays", { error: error.message });
      return withRoutes(config, this.#good, name);
    }
  }

  /** Routes are read from here from now on; undefined for nowhere. */
  set(sessions: XdsSessions | undefined): void {
    const wanted = sessions?.config.configuration ? sessions : undefined;
    if (this.#watching?.sessions === wanted) return;
    this.#watching?.abort.abort();
    this.#watching = undefined;
    if (wanted === undefined) {
      this.#told = this.#good = [];
      return;
    }
    // What was told stays until the new one has told something.
    const abort = new AbortController();
    this.#watching = { sessions: wanted, abort, over: this.#follow(wanted, abort.signal) };
  }

  /** Waits for the first word of the routes, at most some milliseconds. */
  async heard(ms: number): Promise<void> {
    if (this.#watching === undefined) return;
    const over = new AbortController();
    this.#first.promise.then(() => over.abort());
    await pause(ms, this.clock, over.signal);
  }

  #follow(sessions: XdsSessions, signal: AbortSignal): Promise<void> {
    let said = "";
    return keepTrying(
      async () => {
        for await (const told of watchConfigurations(sessions, signal)) {
          if (signal.aborted) return;
          this.#told = told;
          await this.changed();
          this.#first.resolve();
        }
      },
      ({ message }) => {
        if (message !== said) this.log.warn("the mesh's routes are not known", { error: message });
        said = message;
        this.#first.resolve();
      },
      PAUSES,
      this.clock,
      signal,
    );
  }

  async stop(): Promise<void> {
    this.#watching?.abort.abort();
    await this.#watching?.over;
  }
}
