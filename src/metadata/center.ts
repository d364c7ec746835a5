// SPDX-License-Identifier: Apache-2.0
// The metadata center's accounting: which requests load which engine, which engine holds which prefix. No network and no
// clock of its own; the server, the embedding gateway and the tests drive it alike.
//
// A request is added once, its prompt length taken off once, and removed once. A delete whose request is unknown may have
// overtaken its add: it is tried again a second later. A request lives as long as its gateway's lease, or 660 s when the
// gateway has none.

import type { Clock } from "../base/clock.ts";
import { type EngineAddress, engineKey, plainKey } from "./engine_address.ts";
import { byHost, type Engine, type EngineLoad, figures, newEngine } from "./engine_load.ts";
import { type CacheLocation, PrefixHolders } from "./prefix_holders.ts";
import type { EngineReportTold } from "./engine_report.ts";

export interface LoadRequest extends EngineAddress {
  cluster: string;
  requestId: string;
  promptLength: number;
  /** The gateway whose lease keeps it alive; undefined for gateways that know no leases. */
  gateway?: string;
}

/** Prefixes that an engine holds from now on. */
export interface CacheSave extends EngineAddress {
  cluster: string;
  hashes: bigint[];
  /** Who told; undefined when it did not say. */
  gateway?: string;
}

/** What changed, for those who watch a cluster. `load` says which engine; its figures are read with `loadOf`. */
export type Change =
  | { kind: "load"; engine: EngineAddress }
  | { kind: "cache"; save: CacheSave }
  | { kind: "report"; told: EngineReportTold };

export type Watcher = (change: Change) => void;

export interface CenterLimits {
  /** A request without a lease, an engine or a cluster untouched for this long is dropped. */
  expiryMs: number;
  /** A delete of an unknown request is tried again after this long. */
  secondChanceMs: number;
  /** How long a lease lasts without renewal. */
  leaseMs: number;
  /** Requests known at once; more are refused. */
  requests: number;
  /** Prefix hashes known at once; the oldest of the cluster with most of them go first. */
  prefixes: number;
  /** Clusters, engines of all of them, and gateways with a lease known at once; more are refused. */
  clusters: number;
  engines: number;
  gateways: number;
}

/** What was told would be more than a limit allows. */
export class CenterFull extends Error {
  override readonly name = "CenterFull";
}

export const DEFAULT_CENTER_LIMITS: CenterLimits = {
  expiryMs: 660_000,
  secondChanceMs: 1_000,
  leaseMs: 3_000,
  requests: 1_000_000,
  prefixes: 1_000_000,
  clusters: 4_096,
  engines: 65_536,
  gateways: 4_096,
};

interface Cluster {
  engines: Map<string, Engine>;
  watchers: Set<Watcher>;
}

interface OpenRequest extends LoadRequest {
  promptCounted: boolean;
  sinceMs: number;
}

interface Lease {
  readonly number: number;
  /** By cluster, the number of the last batch that was taken. */
  readonly sequences: Map<string, number>;
  untilMs: number;
  readonly requests: Set<string>;
}

export class Center {
  readonly #clusters = new Map<string, Cluster>();
  readonly #requests = new Map<string, OpenRequest>();
  readonly #leases = new Map<string, Lease>();
  #leaseCount = 0;
  #engineCount = 0;
  readonly #cancels = new Set<() => void>();
  /** Requests that a lease took along, and since when. */
  readonly #lost = new Map<string, number>();
  readonly #prefixes: PrefixHolders;

  constructor(readonly clock: Clock, readonly limits: CenterLimits = DEFAULT_CENTER_LIMITS) {
    this.#prefixes = new PrefixHolders(limits.prefixes);
  }

  /** Adds a request; one that is known already is ignored. Throws CenterFull. */
  add(request: LoadRequest): void {
    const known = this.#requests.get(request.requestId);
    if (known) {
      if (known.gateway === undefined && request.gateway !== undefined) this.#adopt(known, request.gateway);
      return;
    }
    this.#bound("requests", this.#requests.size);
    const lease = request.gateway === undefined ? undefined : this.#lease(request.gateway);
    this.#engine(request);
    this.#requests.set(request.requestId, { ...request, promptCounted: true, sinceMs: this.clock.wall() });
    this.#lost.delete(request.requestId);
    lease?.requests.add(request.requestId);
    this.#change(request, 1, request.promptLength);
  }

  #bound(limit: "requests" | "clusters" | "engines" | "gateways", count: number): void {
    if (count >= this.limits[limit]) throw new CenterFull(`the center holds ${count} ${limit}, its limit`);
  }

  // A gateway that took this center for one without leases has told of it before.
  #adopt(request: OpenRequest, gateway: string): void {
    const promptLength = request.promptCounted ? request.promptLength : 0;
    this.#change(request, -1, -promptLength);
    request.gateway = gateway;
    this.#lease(gateway).requests.add(request.requestId);
    this.#change(request, 1, promptLength);
  }

  /** Takes a request's prompt length off its engine, once. */
  deletePrompt(requestId: string): void {
    this.#orLater(requestId, (request) => this.#dropPrompt(request));
  }

  /** Removes a request, and its prompt length if that is still there. */
  delete(requestId: string): void {
    this.#orLater(requestId, (request) => this.#remove(request));
  }

  #orLater(requestId: string, act: (request: OpenRequest) => void): void {
    const request = this.#requests.get(requestId);
    if (request) return act(request);
    const cancel = this.clock.after(this.limits.secondChanceMs, () => {
      this.#cancels.delete(cancel);
      const late = this.#requests.get(requestId);
      if (late) act(late);
    });
    this.#cancels.add(cancel);
  }

  #dropPrompt(request: OpenRequest): void {
    if (!request.promptCounted) return;
    request.promptCounted = false;
    this.#change(request, 0, -request.promptLength);
  }

  #remove(request: OpenRequest): void {
    this.#requests.delete(request.requestId);
    if (request.gateway !== undefined) this.#leases.get(request.gateway)?.requests.delete(request.requestId);
    this.#change(request, -1, request.promptCounted ? -request.promptLength : 0);
  }

  #change(request: LoadRequest, queued: number, promptLength: number): void {
    const cluster = this.#cluster(request.cluster);
    const engine = this.#engine(request);
    engine.updatedMs = this.clock.wall();
    engine.total.queued += queued;
    engine.total.promptLength += promptLength;
    if (request.gateway !== undefined) {
      const share = engine.byGateway.get(request.gateway) ?? { queued: 0, promptLength: 0 };
      share.queued += queued;
      share.promptLength += promptLength;
      if (share.queued === 0) engine.byGateway.delete(request.gateway);
      else engine.byGateway.set(request.gateway, share);
    }
    for (const watcher of cluster.watchers) watcher({ kind: "load", engine });
  }

  #engine(request: LoadRequest): Engine {
    const { engines } = this.#cluster(request.cluster);
    const key = engineKey(request);
    let engine = engines.get(key);
    if (!engine) {
      this.#bound("engines", this.#engineCount);
      this.#engineCount++;
      engines.set(key, engine = newEngine(request));
    }
    return engine;
  }

  /** Renews a gateway's lease. Throws CenterFull. */
  renew(gateway: string): void {
    this.#lease(gateway).untilMs = this.clock.wall() + this.limits.leaseMs;
  }

  /** Drops what a gateway has open in a cluster, or everywhere: it is about to say anew. */
  reset(gateway: string, cluster?: string): void {
    this.renew(gateway);
    for (const id of this.#lease(gateway).requests) {
      const request = this.#requests.get(id)!;
      if (cluster === undefined || request.cluster === cluster) this.#lose(request);
    }
  }

  #lose(request: OpenRequest): void {
    this.#remove(request);
    this.#lost.set(request.requestId, this.clock.wall());
  }

  /** Number of a gateway's lease: another one says that what it had told has been dropped. Undefined without one. */
  leaseNumber(gateway: string): number | undefined {
    return this.#leases.get(gateway)?.number;
  }

  /**
   * Whether a gateway's batch is newer than those before it. One that was given up, and is read late, is not to be applied
   * behind what has been told since.
   */
  isNext(gateway: string, cluster: string, sequence: number): boolean {
    const { sequences } = this.#lease(gateway);
    if (sequence <= (sequences.get(cluster) ?? -1)) return false;
    sequences.set(cluster, sequence);
    return true;
  }

  #lease(gateway: string): Lease {
    let lease = this.#leases.get(gateway);
    if (!lease) {
      this.#bound("gateways", this.#leases.size);
      const untilMs = this.clock.wall() + this.limits.leaseMs;
      lease = { number: ++this.#leaseCount, sequences: new Map(), untilMs, requests: new Set() };
      this.#leases.set(gateway, lease);
    }
    return lease;
  }

  /** Gateways with a lease. */
  get gateways(): number {
    return this.#leases.size;
  }

  get requests(): number {
    return this.#requests.size;
  }

  /** Loads of a cluster's engines, less what `without` causes; undefined for an unknown cluster. */
  loads(cluster: string, without?: string): EngineLoad[] | undefined {
    const known = this.#clusters.get(cluster);
    if (!known) return undefined;
    return [...known.engines.values()].map((engine) => figures(engine, without));
  }

  /** The same with the engines of one IPv4 address as one. */
  plainLoads(cluster: string, without?: string): EngineLoad[] | undefined {
    const loads = this.loads(cluster, without);
    return loads && byHost(loads);
  }

  /** Load of one engine, less what `without` causes. */
  loadOf(cluster: string, engine: EngineAddress, without?: string): EngineLoad {
    const known = this.#clusters.get(cluster)?.engines.get(engineKey(engine));
    return known ? figures(known, without) : { ...engine, queued: 0, promptLength: 0, updatedMs: this.clock.wall() };
  }

  /** Records that an engine holds these prefixes. Throws CenterFull. */
  saveCache(save: CacheSave): void {
    const { watchers } = this.#cluster(save.cluster);
    this.#prefixes.save(save.cluster, save, save.hashes);
    for (const watcher of watchers) watcher({ kind: "cache", save });
  }

  /** Passes on what a gateway has read of an engine; nothing of it is kept. */
  reported(told: EngineReportTold): void {
    for (const watcher of this.#clusters.get(told.cluster)?.watchers ?? []) watcher({ kind: "report", told });
  }

  /** The engines that hold the longest beginnings of a prompt, longest first; those of one IPv4 address as one, if `plain`. */
  queryCache(cluster: string, hashes: bigint[], topk: number, plain = false): CacheLocation[] {
    const locations = this.#prefixes.query(cluster, hashes);
    if (!plain) return locations.slice(0, topk);
    const longest = new Map<string, CacheLocation>();
    for (const { length, ...engine } of locations) {
      const host = plainKey(engine);
      if (!longest.has(host)) longest.set(host, { host, length });
    }
    return [...longest.values()].slice(0, topk);
  }

  /** Whether nothing is known of a cluster, and nobody but `watchers` watches it. */
  isForgotten(cluster: string, watchers: number): boolean {
    const known = this.#clusters.get(cluster);
    if (known === undefined) return true;
    return known.engines.size === 0 && known.watchers.size <= watchers && !this.#prefixes.has(cluster);
  }

  /** Calls back on every change of a cluster; returns a function that ends it. Throws CenterFull. */
  watch(cluster: string, watcher: Watcher): () => void {
    const { watchers } = this.#cluster(cluster);
    watchers.add(watcher);
    return () => watchers.delete(watcher);
  }

  clusterNames(): string[] {
    return [...this.#clusters.keys()];
  }

  #cluster(name: string): Cluster {
    let cluster = this.#clusters.get(name);
    if (!cluster) {
      this.#bound("clusters", this.#clusters.size);
      cluster = { engines: new Map(), watchers: new Set() };
      this.#clusters.set(name, cluster);
    }
    return cluster;
  }

  /**
   * Drops the requests of gateways whose lease ran out. Call several times a lease. Returns the ids of requests that went
   * so, or by a reset, `secondChanceMs` ago and were not told anew: who knows no leases must be told of their end.
   */
  expireLeases(): string[] {
    const now = this.clock.wall();
    for (const [gateway, lease] of this.#leases) {
      if (lease.untilMs > now) continue;
      for (const id of lease.requests) this.#lose(this.#requests.get(id)!);
      this.#leases.delete(gateway);
    }
    const ids: string[] = [];
    for (const [id, since] of this.#lost) {
      if (since > now - this.limits.secondChanceMs) break; // in order of their loss
      this.#lost.delete(id);
      ids.push(id);
    }
    return ids;
  }

  /** Drops what has been untouched for too long. Call about once a minute. */
  collectGarbage(): void {
    const oldest = this.clock.wall() - this.limits.expiryMs;
    for (const request of this.#requests.values()) {
      if (request.sinceMs >= oldest) break; // in order of their adding
      if (request.gateway === undefined || !this.#leases.has(request.gateway)) this.#remove(request);
    }
    for (const [name, cluster] of this.#clusters) {
      for (const [key, engine] of cluster.engines) {
        if (engine.updatedMs >= oldest || engine.total.queued > 0) continue;
        cluster.engines.delete(key);
        this.#engineCount--;
      }
      if (cluster.engines.size === 0 && !this.#prefixes.has(name) && cluster.watchers.size === 0) {
        this.#clusters.delete(name);
        this.#prefixes.forget(name);
      }
    }
  }

  close(): void {
    for (const cancel of this.#cancels) cancel();
    this.#cancels.clear();
  }
}
