// SPDX-License-Identifier: Apache-2.0
// Watches every source of endpoints and puts together what they say: a cluster's endpoints are those of all its sources,
// and where two name the same one, the labels are those of the source that came first. A source that fails keeps its last
// state and is watched again after a growing pause.

import type { Clock } from "../base/clock.ts";
import { keepTrying } from "../base/keep_trying.ts";
import { pause } from "../base/pause.ts";
import { type Discovery, endpointKey, type EndpointSpec, type Update } from "../discovery/discovery.ts";
import type { Log } from "../telemetry/log.ts";

const PAUSES = { firstMs: 200, longestMs: 10_000 };
/** What a source that has gone told is kept until those in its place have told something, but not longer than this. */
const HANDOVER_MS = 5_000;

export interface SourceView {
  readonly source: string;
  readonly state: "starting" | "ok" | "failing";
  /** What went wrong last; null when nothing is wrong. */
  readonly error: string | null;
  readonly failures: number;
  readonly endpoints: number;
  /** Since it last told something; null when it has not. */
  readonly age_ms: number | null;
}

interface Source {
  readonly discovery: Discovery;
  readonly abort: AbortController;
  state: SourceView["state"];
  error: string | null;
  failures: number;
  /** Whether it has told all that it knows at first, or failed. */
  heard: boolean;
  /** Whether it has told all that it knows at first. */
  synced: boolean;
  toldAt: number | undefined;
  readonly clusters: Map<string, Map<string, EndpointSpec>>;
}

export class Discoveries {
  readonly #sources = new Map<string, Source>();
  readonly #tasks = new Set<Promise<void>>();
  #cancelHandover: (() => void) | undefined;
  readonly #gone = new Set<Source>();

  /** @param apply Is told a cluster's endpoints whenever they change. */
  constructor(
    readonly clock: Clock,
    readonly log: Log,
    readonly apply: (cluster: string, endpoints: readonly EndpointSpec[]) => void,
  ) {}

  /** These are the sources from now on, by what makes them what they are: one that is known already goes on. */
  set(sources: ReadonlyMap<string, Discovery>): void {
    for (const [key, source] of this.#sources) {
      if (sources.has(key)) continue;
      source.abort.abort();
      this.#sources.delete(key);
      this.#gone.add(source);
    }
    for (const [key, discovery] of sources) if (!this.#sources.has(key)) this.#begin(key, discovery);
    this.#order([...sources.keys()]);
    if (this.#gone.size === 0) return;
    this.#cancelHandover?.();
    this.#cancelHandover = this.clock.after(HANDOVER_MS, () => this.#handOver(true));
    this.#handOver(false);
  }

  // Whose labels count follows the order of the configuration that is in force now.
  #order(keys: readonly string[]): void {
    if (keys.join("\n") === [...this.#sources.keys()].join("\n")) return;
    const ordered = keys.map((key) => [key, this.#sources.get(key)!] as const);
    this.#sources.clear();
    for (const [key, source] of ordered) this.#sources.set(key, source);
    for (const cluster of new Set(ordered.flatMap(([, { clusters }]) => [...clusters.keys()]))) this.#publish(cluster);
  }

  #begin(key: string, discovery: Discovery): void {
    const source: Source = {
      discovery,
      abort: new AbortController(),
      state: "starting",
      error: null,
      failures: 0,
      heard: false,
      synced: false,
      toldAt: undefined,
      clusters: new Map(),
    };
    this.#sources.set(key, source);
    const task = this.#follow(source).finally(() => this.#tasks.delete(task));
    this.#tasks.add(task);
  }

  #follow(source: Source): Promise<void> {
    const { discovery, abort: { signal } } = source;
    return keepTrying(
      async () => {
        for await (const update of discovery.watch(signal)) {
          if (signal.aborted) return;
          this.#told(source, update);
        }
        if (!signal.aborted) throw new Error("the source ended");
      },
      (error) => this.#failed(source, error),
      PAUSES,
      this.clock,
      signal,
    );
  }

  #told(source: Source, update: Update): void {
    if (source.state === "failing") {
      this.log.info("a source of endpoints works again", { source: source.discovery.name });
    }
    source.state = "ok";
    source.toldAt = this.clock.now();
    source.error = null;
    for (const cluster of change(source.clusters, update)) this.#publish(cluster);
    if (update.kind !== "synced") return;
    source.synced = true;
    this.#heard(source);
    this.#handOver(false);
  }

  #failed(source: Source, { message }: Error): void {
    if (source.error !== message) {
      this.log.warn("a source of endpoints fails; what it told last stays", {
        source: source.discovery.name,
        error: message,
      });
    }
    source.state = "failing";
    source.error = message;
    source.failures++;
    this.#heard(source);
  }

  /** Resolves when every source has told all that it knows at first or failed, at the latest after some milliseconds. */
  async heard(ms: number): Promise<void> {
    const all = () => [...this.#sources.values()].every(({ heard }) => heard);
    if (all()) return;
    const over = new AbortController();
    this.#onHeard = () => all() && over.abort();
    await pause(ms, this.clock, over.signal);
    this.#onHeard = () => {};
  }
  #onHeard: () => void = () => {};

  #heard(source: Source): void {
    if (source.heard) return;
    source.heard = true;
    this.#onHeard();
    this.#handOver(false);
  }

  // Drops what sources told that have gone, once those in their place have told something: those of all clusters for a
  // while, those of the same one for as long as it takes.
  #handOver(late: boolean): void {
    if (this.#gone.size === 0) return;
    const sources = [...this.#sources.values()];
    if (!late && sources.some(({ heard }) => !heard)) return;
    const dropped = new Set<string>();
    for (const source of this.#gone) {
      for (const cluster of [...source.clusters.keys()]) {
        if (sources.some(({ synced, discovery }) => !synced && discovery.cluster === cluster)) continue;
        source.clusters.delete(cluster);
        dropped.add(cluster);
      }
      if (source.clusters.size === 0) this.#gone.delete(source);
    }
    if (this.#gone.size === 0) this.#cancelHandover?.();
    for (const cluster of dropped) this.#publish(cluster);
  }

  #publish(cluster: string): void {
    this.apply(cluster, this.endpointsOf(cluster));
  }

  /** A cluster's endpoints as its sources tell them. */
  endpointsOf(cluster: string): EndpointSpec[] {
    const endpoints = new Map<string, EndpointSpec>();
    for (const { clusters } of [...this.#sources.values(), ...this.#gone]) {
      for (const [key, spec] of clusters.get(cluster) ?? []) if (!endpoints.has(key)) endpoints.set(key, spec);
    }
    return [...endpoints.values()];
  }

  /** Names of the sources that tell an endpoint. */
  sourcesOf(cluster: string, key: string): string[] {
    return [...this.#sources.values()].filter(({ clusters }) => clusters.get(cluster)?.has(key))
      .map(({ discovery }) => discovery.name);
  }

  view(): SourceView[] {
    return [...this.#sources.values()].map(({ discovery, state, error, failures, clusters, toldAt }) => ({
      source: discovery.name,
      state,
      error,
      failures,
      endpoints: [...clusters.values()].reduce((sum, { size }) => sum + size, 0),
      age_ms: toldAt === undefined ? null : Math.round(this.clock.now() - toldAt),
    }));
  }

  async stop(): Promise<void> {
    this.#cancelHandover?.();
    for (const { abort } of this.#sources.values()) abort.abort();
    await Promise.all(this.#tasks);
  }
}

// Applies an update to a source's state; returns the clusters that may have changed.
function change(clusters: Source["clusters"], update: Update): Iterable<string> {
  switch (update.kind) {
    case "reset":
      clusters.set(update.cluster, new Map(update.endpoints.map((spec) => [endpointKey(spec), spec])));
      return [update.cluster];
    case "add": {
      const known = clusters.get(update.cluster) ?? new Map();
      for (const spec of update.endpoints) known.set(endpointKey(spec), spec);
      clusters.set(update.cluster, known);
      return [update.cluster];
    }
    case "remove":
      for (const id of update.ids) clusters.get(id.cluster)?.delete(endpointKey(id));
      return new Set(update.ids.map(({ cluster }) => cluster));
    case "does_not_exist":
      clusters.delete(update.cluster);
      return [update.cluster];
    case "synced":
      return [];
  }
}
