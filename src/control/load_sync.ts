// SPDX-License-Identifier: Apache-2.0
// The metadata-center sync loop: what this gateway's requests do goes out, what the others' do comes into the endpoint
// rows. Requests never wait for it. Figures that grow old count less and less until they count nothing.

import type { AttachedKernel } from "../../wasm/kernel.ts";
import type { Clock } from "../base/clock.ts";
import type { MetadataCenterConfig } from "../config/metadata_center.ts";
import type { Snapshot } from "../config/snapshot.ts";
import type { EngineSignals } from "../engines/signals.ts";
import type { EngineLoad } from "../metadata/engine_load.ts";
import { type EngineAddress, engineKey } from "../metadata/engine_address.ts";
import type { EngineReport } from "../metadata/engine_report.ts";
import { isIpv4, printEngine, printReport } from "../metadata/wire.ts";
import type { CenterLink, LinkListener } from "../metadata/link.ts";
import type { CenterEvent } from "../metadata/server.ts";
import { placementSalt } from "../scheduler/placement.ts";
import { type RequestChange, RequestScan } from "../tables/request_scan.ts";
import { readSaves, setSharing } from "../tables/save_ring.ts";
import type { Fleet } from "./fleet.ts";
import type { Member } from "./member.ts";
import { ResolvedHosts } from "./resolved_hosts.ts";
import { LimitSync, TENANTS_CLUSTER } from "./limit_sync.ts";

interface ClusterState {
  name: string;
  salt: number;
  /** Load of the others by engine. */
  remote: Map<string, EngineLoad>;
  freshAt: number;
  /** Share of the remote load that counts, 1 to 0. */
  weight: number;
}

/** State of a cluster's synchronization. */
export interface SyncView {
  cluster: string;
  /** Milliseconds since the center was heard of; null when it never was. */
  age_ms: number | null;
  /** Share of the others' load that is counted, 0 to 1. */
  weight: number;
}

const FADE_TICK_MS = 100;
/** A reading of another gateway is taken to be this much older than it was when it was sent. */
const ON_ITS_WAY_MS = 100;
/** While nobody wants to know what this gateway does, it is looked as often whether somebody does. */
const ALONE_TICK_MS = 50;

/** What an engine is called at the center: by its host, and of several ranks each by a name of its own. */
function hostOf({ address: { hostname }, spec, ranks }: Named): string {
  return ranks > 1 ? `${hostname}#${spec.rank}` : hostname;
}

type Named = Pick<Member, "address" | "spec" | "ranks">;

export interface LoadSyncParts {
  readonly kernel: AttachedKernel;
  readonly fleet: Fleet;
  readonly link: CenterLink;
  readonly config: MetadataCenterConfig;
  readonly clock: Clock;
  readonly gateway: string;
}

export class LoadSync implements LinkListener {
  readonly kernel: AttachedKernel;
  readonly fleet: Fleet;
  readonly link: CenterLink;
  readonly config: MetadataCenterConfig;
  readonly clock: Clock;
  readonly gateway: string;
  readonly #clusters = new Map<string, ClusterState>();
  readonly #scan: RequestScan;
  readonly #limits: LimitSync;
  readonly #resolved: ResolvedHosts;
  readonly #cancels = new Map<string, () => void>();
  #started = false;
  /** Whether nobody wanted to know when it was last looked. */
  #alone = false;

  constructor({ kernel, fleet, link, config, clock, gateway }: LoadSyncParts) {
    this.kernel = kernel;
    this.fleet = fleet;
    this.link = link;
    this.config = config;
    this.clock = clock;
    this.gateway = gateway;
    this.#resolved = new ResolvedHosts(clock);
    this.#limits = new LimitSync({
      kernel,
      clock,
      gateway,
      staleMs: config.stale_after_ms,
      send: (cluster, events) => link.send(cluster, events),
    });
    this.#scan = new RequestScan(kernel, gateway);
  }

  /**
   * A configuration comes into force.
   * @param clusters Every cluster that has a row: those that are gone from the config and have requests left too.
   */
  configure({ config, rows }: Pick<Snapshot, "config" | "rows">, clusters: readonly string[]): void {
    for (const name of clusters) {
      if (this.#clusters.has(name)) continue;
      this.#clusters.set(name, {
        name,
        salt: placementSalt(name, ""),
        remote: new Map(),
        freshAt: -Infinity,
        weight: 0,
      });
    }
    for (const name of this.#clusters.keys()) if (!clusters.includes(name)) this.#clusters.delete(name);
    this.#limits.configure(config, rows.tenants);
    if (this.#started) this.link.setClusters(this.#names());
  }

  #names(): string[] {
    return [...this.#clusters.keys(), ...(this.#limits.needed ? [TENANTS_CLUSTER] : [])];
  }

  start(): void {
    this.#started = true;
    this.link.start(this.#names(), this, (cluster) => {
      if (cluster === TENANTS_CLUSTER) return this.#limits.open();
      return this.#events(this.#scan.open()).get(cluster) ?? [];
    });
    this.#limits.start();
    this.#every("report", () => this.link.alone() ? ALONE_TICK_MS : this.config.report_interval_ms, () => {
      // Once more when that begins: nothing is left on its way.
      const alone = this.link.alone();
      if (!alone || !this.#alone) this.report();
      this.#alone = alone;
    });
    this.#every("fade", () => FADE_TICK_MS, () => this.#fade());
  }

  #every(what: string, ms: () => number, run: () => void): void {
    this.#cancels.set(
      what,
      this.clock.after(ms(), () => {
        this.#every(what, ms, run);
        run();
      }),
    );
  }

  /** Somebody asks the center, which may not have been told for a while. */
  asked(): void {
    this.report();
  }

  /** A cluster has other endpoints than before, or on other rows. */
  membersChanged(cluster: string): void {
    const state = this.#clusters.get(cluster);
    if (state) this.#apply(state);
  }

  /** Reports the end of everything and stops. */
  async stop(): Promise<void> {
    for (const cancel of this.#cancels.values()) cancel();
    this.#limits.stop();
    this.report();
    await this.link.stop();
  }

  /** Tells what has changed, and empties the rings in which rows stand. */
  report(): void {
    setSharing(this.kernel, this.config.cache_enable && this.link.wantsMore());
    for (const [cluster, events] of this.#events(this.#scan.changes())) this.link.send(cluster, events);
    const workers = new Int32Array(this.kernel.buffer)[this.kernel.exports.HEADER_WORKERS];
    for (let worker = 1; worker < workers; worker++) {
      for (const { row, salt, hashes } of readSaves(this.kernel, worker)) {
        const member = this.fleet.memberOf(row);
        // Prefixes under a LoRA adapter are this gateway's own: the wire has no name for them.
        if (!member || hashes.length === 0 || this.#clusters.get(member.cluster)?.salt !== salt) continue;
        const { cluster } = member;
        this.link.send(cluster, [{
          type: "cache.save",
          body: { cluster, ...this.#named(member), prompt_hash: hashes, gateway: this.gateway },
        }]);
      }
    }
  }

  #named(member: Named) {
    const { hostname, port } = member.address;
    const ip = this.#resolved.of(hostname) ?? (isIpv4(hostname) ? hostname : undefined);
    return printEngine({ host: hostOf(member), ip, port });
  }

  #events(changes: RequestChange[]): Map<string, CenterEvent[]> {
    const events = new Map<string, CenterEvent[]>();
    const add = (cluster: string, event: CenterEvent) => {
      const list = events.get(cluster) ?? [];
      events.set(cluster, list);
      list.push(event);
    };
    for (const change of changes) {
      if (change.kind === "granted") {
        const member = this.fleet.memberOf(change.endpoint);
        if (!member) continue;
        this.#clusterOf.set(change.id, member.cluster);
        add(member.cluster, {
          type: "load.stats.set",
          body: {
            cluster: member.cluster,
            request_id: change.id,
            ...this.#named(member),
            prompt_length: change.promptBytes,
            timestamp: BigInt(Math.round(this.clock.wall())) * 1_000_000n,
            gateway: this.gateway,
          },
        });
        continue;
      }
      const cluster = this.#clusterOf.get(change.id);
      if (cluster === undefined) continue;
      if (change.kind === "ended") this.#clusterOf.delete(change.id);
      const type = change.kind === "ended" ? "load.stats.delete" : "load.prompt.delete";
      add(cluster, { type, body: { request_id: change.id } });
    }
    return events;
  }
  readonly #clusterOf = new Map<string, string>();

  loads(cluster: string, loads: EngineLoad[], whole: boolean): void {
    if (cluster === TENANTS_CLUSTER) this.#limits.loads(loads, whole);
    const state = this.#clusters.get(cluster);
    if (!state) return;
    if (whole) state.remote.clear();
    for (const load of loads) {
      if (load.queued === 0 && load.promptLength === 0) state.remote.delete(engineKey(load));
      else state.remote.set(engineKey(load), load);
    }
    this.#apply(state);
  }

  saved(cluster: string, engine: EngineAddress, hashes: bigint[]): void {
    const state = this.#clusters.get(cluster);
    if (!state || !this.config.cache_enable) return;
    const k = this.kernel.exports;
    const scratch = new BigUint64Array(
      this.kernel.buffer,
      k.hashOffset(),
      new Int32Array(this.kernel.buffer)[k.HEADER_CHUNKS],
    );
    const count = Math.min(hashes.length, scratch.length);
    for (const { row } of this.#membersAt(cluster, engine)) {
      for (let i = 0; i < count; i++) scratch[i] = hashes[i];
      k.indexInsertScratch(count, state.salt, row);
    }
  }

  #membersAt(cluster: string, engine: EngineAddress): Readonly<Member>[] {
    return this.fleet.membersOf(cluster).filter((member) => {
      const { hostname, port } = member.address;
      const host = hostOf(member);
      const named = host === engine.host || (host === hostname && this.#resolved.of(hostname) === engine.host);
      return named && (engine.port === undefined || engine.port === port);
    });
  }

  /** This gateway has read an engine's metrics: the others need not. */
  measured(member: Readonly<Member>, signals: EngineSignals, ageMs: number): void {
    if (!this.config.share_metrics || !this.link.wantsMore()) return;
    const { cluster, cost } = member;
    const report = { signals: { ...signals }, ageMs, costMs: cost.metricsMs };
    const body = { cluster, ...this.#named(member), ...printReport(report), gateway: this.gateway };
    this.link.send(cluster, [{ type: "engine.report", body, madeAt: performance.now() }]);
  }

  reported(cluster: string, engine: EngineAddress, report: EngineReport): void {
    if (!this.config.share_metrics || engine.port === undefined) return;
    const ageMs = report.ageMs + ON_ITS_WAY_MS;
    for (const { row } of this.#membersAt(cluster, engine)) this.fleet.heard(row, { ...report, ageMs });
  }

  fresh(cluster: string): void {
    if (cluster === TENANTS_CLUSTER) this.#limits.fresh();
    const state = this.#clusters.get(cluster);
    if (!state) return;
    state.freshAt = this.clock.now();
    if (state.weight === 1) return;
    state.weight = 1;
    this.#apply(state);
  }

  #fade(): void {
    for (const state of this.#clusters.values()) {
      const late = this.clock.now() - state.freshAt - this.config.stale_after_ms;
      const weight = late <= 0 ? 1 : Math.max(0, 1 - late / this.config.fade_ms);
      if (weight === state.weight) continue;
      state.weight = weight;
      this.#apply(state);
    }
  }

  // Writes the others' load into the rows. A figure without a port is of all endpoints at that IP together.
  #apply({ name, remote, weight }: ClusterState): void {
    const members = this.fleet.membersOf(name);
    for (const member of members) {
      const { row, address: { hostname, port } } = member;
      const own = remote.get(engineKey({ host: hostOf(member), port }));
      const ip = this.#resolved.of(hostname) ?? hostname;
      const shared = remote.get(hostname) ?? remote.get(ip);
      const sharers = shared ? members.filter(({ address }) => this.#plain(address.hostname) === ip).length : 1;
      const queued = (own?.queued ?? 0) + (shared?.queued ?? 0) / sharers;
      const promptLength = (own?.promptLength ?? 0) + (shared?.promptLength ?? 0) / sharers;
      this.fleet.table.setRemote(row, Math.round(weight * queued), Math.round(weight * promptLength));
    }
  }

  #plain(host: string): string {
    return this.#resolved.of(host) ?? host;
  }

  view(): SyncView[] {
    const now = this.clock.now();
    return [...this.#clusters.values()].map(({ name, freshAt, weight }) => ({
      cluster: name,
      age_ms: freshAt === -Infinity ? null : Math.round(now - freshAt),
      weight,
    }));
  }
}
