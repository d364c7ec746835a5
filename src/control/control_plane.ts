// SPDX-License-Identifier: Apache-2.0
// What a configuration becomes when it comes into force: rows for its names, sources of endpoints, settings of every part
// of the control plane, and one snapshot that the workers get as a message. Engines that list other models or hold other
// adapters make a new snapshot of the same configuration.

import type { AttachedKernel } from "../../wasm/kernel.ts";
import type { Clock } from "../base/clock.ts";
import { pause } from "../base/pause.ts";
import type { Config } from "../config/schema.ts";
import type { ClusterAccess, Snapshot, SnapshotRows } from "../config/snapshot.ts";
import { AdminDiscovery } from "../discovery/admin.ts";
import type { Discovery } from "../discovery/discovery.ts";
import { DnsDiscovery } from "../discovery/dns.ts";
import { FileDiscovery } from "../discovery/file.ts";
import { kubernetesDiscovery } from "../discovery/kubernetes/discovery.ts";
import { StaticDiscovery } from "../discovery/static.ts";
import { XdsDiscovery } from "../discovery/xds/discovery.ts";
import { XdsSessions } from "../discovery/xds/session.ts";
import { clearCells, ownCells } from "../tables/metric_cells.ts";
import { writeQueueParameters } from "../tables/queue_parameters.ts";
import { writeTenant } from "../tables/tenant_table.ts";
import { CellLayout } from "../telemetry/cells.ts";
import { clearSeries, RequestSeries } from "../telemetry/request_series.ts";
import type { Log } from "../telemetry/log.ts";
import { Transports } from "../upstream/transports.ts";
import { Discoveries } from "./discoveries.ts";
import { effective, type Surroundings } from "./effective.ts";
import type { Fleet } from "./fleet.ts";
import type { LoadSync } from "./load_sync.ts";
import { Objectives } from "./objectives.ts";
import { ANONYMOUS_ROW, Rows } from "./rows.ts";
import type { Trainer } from "./trainer.ts";

/** How often rows that nobody uses any more are looked for. */
const RECLAIM_MS = 250;
/** Changes of models and adapters within this time make one snapshot. */
const GATHER_MS = 20;
/** How long a start waits for sources that have to ask somebody. */
const FIRST_WORD_MS = 3_000;
const NEVER = new AbortController().signal;

export interface ControlPlaneParts {
  readonly kernel: AttachedKernel;
  readonly clock: Clock;
  readonly log: Log;
  readonly fleet: Fleet;
  readonly trainer: Trainer;
  /** Undefined without a metadata center. */
  sync(): LoadSync | undefined;
  /** Hands a snapshot to every worker. */
  publish(snapshot: Snapshot): void;
  /** The oldest snapshot that a worker still uses. */
  oldestInUse(): number;
}

export class ControlPlane {
  readonly rows: Rows;
  readonly admin = new AdminDiscovery();
  readonly discoveries: Discoveries;
  /** Where metrics are counted. */
  readonly layout: CellLayout;
  readonly #parts: ControlPlaneParts;
  readonly #static = new StaticDiscovery();
  readonly #sources = new Map<string, Discovery>();
  readonly #transports = new Transports();
  /** As it was given, without what engines list. */
  #config: Config;
  #access: ReadonlyMap<string, ClusterAccess> = new Map();
  #snapshot: Snapshot | undefined;
  #version = 0;
  #gathering: (() => void) | undefined;
  readonly #objectives: Objectives;
  #xds: XdsSessions | undefined;
  #cancelReclaim: () => void = () => {};
  #agedMinute = -1;

  constructor(parts: ControlPlaneParts, config: Config) {
    this.#parts = parts;
    this.#config = config;
    this.rows = new Rows(parts.kernel, config.limits);
    this.layout = new CellLayout(config.limits);
    const { fleet, clock, log } = parts;
    this.discoveries = new Discoveries(clock, log, (cluster, endpoints) => fleet.setEndpoints(cluster, endpoints));
    this.#objectives = new Objectives(clock, log, () => this.#gather());
    fleet.listen({
      changed: () => this.#gather(),
      members: (cluster) => {
        parts.trainer.endpointsChanged();
        parts.sync()?.membersChanged(cluster);
        this.#gather();
      },
      measured: (member, signals, ageMs) => parts.sync()?.measured(member, signals, ageMs),
      freeing: () => this.#drainRings(),
      freed: (row) => clearCells(parts.kernel, ...this.layout.cellsOf("endpoint", row)),
    });
  }

  /** What is in force. */
  get snapshot(): Snapshot {
    return this.#snapshot!;
  }

  /** The mesh's control plane; undefined without one. */
  get xds(): XdsSessions | undefined {
    return this.#xds;
  }

  /** The configuration in force, without what engines list. */
  get config(): Config {
    return this.#config;
  }

  /**
   * Puts a configuration into force as a whole. Throws RegistryFull when there is no row for one of its names; then what was
   * in force stays.
   */
  apply(config: Config, access: ReadonlyMap<string, ClusterAccess>): void {
    const before = this.#snapshot?.config;
    this.#publish(config, access);
    this.#config = config;
    this.#access = access;
    this.#static.set(config.clusters.filter(({ from_file }) => !from_file));
    if (JSON.stringify(this.#xds?.config) !== JSON.stringify(config.xds)) {
      this.#xds = config.xds && new XdsSessions(config.xds);
    }
    this.discoveries.set(this.#sourcesOf(config));
    this.#objectives.set(config);
    // A cluster that is new has what its sources have told of it before.
    const known = new Set(before?.clusters.map(({ name }) => name));
    for (const { name } of config.clusters) {
      if (!known.has(name)) this.#parts.fleet.setEndpoints(name, this.discoveries.endpointsOf(name));
    }
    this.#gather(); // pools that are gone have no priorities any more
  }

  get #surroundings(): Surroundings {
    const { fleet } = this.#parts;
    return { membersOf: (cluster) => fleet.membersOf(cluster), objectives: this.#objectives.current };
  }

  #publish(given: Config, access: ReadonlyMap<string, ClusterAccess>): void {
    const { kernel, clock, fleet, trainer, sync } = this.#parts;
    const { config, facts } = effective(given, this.#surroundings);
    const rows = this.rows.take(config);
    const version = ++this.#version;
    const snapshot: Snapshot = {
      version,
      since: clock.wall(),
      config,
      rows,
      access,
      facts,
      adapters: fleet.adapters(config),
    };
    writeQueueParameters(kernel, config.queue, config.prediction.bytes_per_token);
    this.#writeTenants(config, rows);
    fleet.configure(snapshot, (cluster) => this.rows.labelBits(cluster), this.#transports.update(access));
    trainer.config = config;
    trainer.setModels(rows.models);
    this.#snapshot = snapshot;
    this.rows.retire(rows, version);
    sync()?.configure(snapshot, this.#clusterNames());
    this.#parts.publish(snapshot);
  }

  #writeTenants({ tenancy, tenants }: Config, rows: SnapshotRows): void {
    const { kernel } = this.#parts;
    writeTenant(kernel, ANONYMOUS_ROW, tenancy.anonymous);
    for (const tenant of tenants) writeTenant(kernel, rows.tenants.get(tenant.name)!, tenant);
    for (let row = this.rows.firstOther; row < this.rows.tenantRows; row++) writeTenant(kernel, row, tenancy.anonymous);
  }

  /** Clusters that have a row. */
  #clusterNames(): string[] {
    return [...this.rows.clusters.all].map(([name]) => name);
  }

  // Each source by what makes it what it is.
  #sourcesOf({ clusters, clusters_file, reload, kubernetes, xds }: Config): Map<string, Discovery> {
    const sources = new Map<string, Discovery>([["configuration", this.#static]]);
    const { clock } = this.#parts;
    const keep = (key: string, make: () => Discovery): void => {
      sources.set(key, this.#sources.get(key) ?? make());
    };
    if (clusters_file !== undefined) {
      keep(
        JSON.stringify(["file", clusters_file, reload.interval_ms]),
        () => new FileDiscovery(clusters_file, reload.interval_ms, clock),
      );
    }
    for (const { name, dns } of clusters) {
      for (const one of dns) keep(JSON.stringify(["dns", name, one]), () => new DnsDiscovery(name, one, clock));
    }
    for (const { name, kubernetes: watched } of clusters) {
      for (const one of watched) {
        keep(JSON.stringify(["kubernetes", kubernetes, name, one]), () => kubernetesDiscovery(name, one, kubernetes));
      }
    }
    for (const { name, xds: hosts } of clusters) {
      for (const one of hosts) {
        keep(JSON.stringify(["xds", xds, name, one]), () => new XdsDiscovery(name, one, this.#xds!));
      }
    }
    sources.set("admin", this.admin);
    this.#sources.clear();
    for (const [key, source] of sources) this.#sources.set(key, source);
    return sources;
  }

  // Models, adapters or members changed: the next snapshot says so.
  #gather(): void {
    if (this.#snapshot === undefined) return;
    this.#gathering ??= this.#parts.clock.after(GATHER_MS, () => {
      this.#gathering = undefined;
      if (this.#same()) return;
      try {
        this.#publish(this.#config, this.#access);
      } catch (error) {
        this.#parts.log.error("what engines list cannot be served", { error: String(error) });
      }
    });
  }

  // Whether a new snapshot would say what this one says.
  #same(): boolean {
    const { fleet } = this.#parts;
    const { config, facts } = effective(this.#config, this.#surroundings);
    const { snapshot } = this;
    const told = (one: Config, two: Snapshot["facts"], adapters: Snapshot["adapters"]) =>
      JSON.stringify([one.model_mapping_rule, one.tenancy.objectives, [...two], adapters]);
    return told(config, facts, fleet.adapters(config)) ===
      told(snapshot.config, snapshot.facts, snapshot.adapters);
  }

  async start(): Promise<void> {
    await this.discoveries.heard(FIRST_WORD_MS);
    const reclaim = (): void => {
      this.#reclaim();
      this.#ageLimits();
      this.#cancelReclaim = this.#parts.clock.after(RECLAIM_MS, reclaim);
    };
    reclaim();
  }

  /** Waits until the engines of clusters that serve what these list have told it, at most some milliseconds. */
  async firstModels(ms: number): Promise<void> {
    const { fleet, clock } = this.#parts;
    const end = clock.now() + ms;
    const asked = this.#config.clusters.filter(({ discover_models }) => discover_models).map(({ name }) => name);
    const silent = () => asked.some((name) => fleet.membersOf(name).some(({ models }) => models === undefined));
    while (silent() && clock.now() < end) await pause(GATHER_MS, clock, NEVER);
    if (asked.length > 0) await pause(2 * GATHER_MS, clock, NEVER);
  }

  async stop(): Promise<void> {
    this.#cancelReclaim();
    this.#gathering?.();
    await Promise.all([this.discoveries.stop(), this.#objectives.stop()]);
  }

  #reclaim(): void {
    const { kernel, fleet, trainer, sync } = this.#parts;
    const k = kernel.exports;
    const { layout } = this;
    const kept = new RequestSeries(ownCells(kernel), layout);
    const clusters = this.rows.clusters.retiredCount;
    if (clusters + this.rows.models.retiredCount + this.rows.tenants.retiredCount > 0) this.#drainRings();
    this.rows.reclaim(this.#parts.oldestInUse(), {
      cluster: (row, name) => fleet.forget(name) && fleet.table.removeCluster(row) && k.clusterReset(row) === 1,
      model(row) {
        if (!trainer.forgetModel(row, () => k.modelReset(row) === 1)) return false;
        clearCells(kernel, ...layout.cellsOf("model", row));
        clearSeries(kernel, layout, "model", row, kept);
        return true;
      },
      tenant(row) {
        if (k.tenantReset(row) !== 1) return false;
        clearCells(kernel, ...layout.cellsOf("tenant", row));
        clearSeries(kernel, layout, "tenant", row, kept);
        return true;
      },
    });
    if (this.rows.clusters.retiredCount !== clusters) sync()?.configure(this.snapshot, this.#clusterNames());
  }

  // Once in every minute.
  #ageLimits(): void {
    const { kernel, clock } = this.#parts;
    const minute = Math.floor(clock.shared() / 60_000);
    if (minute === this.#agedMinute) return;
    this.#agedMinute = minute;
    kernel.exports.limitsAge(clock.shared());
  }

  // Whatever names a row by its number is read while the number still means the same.
  #drainRings(): void {
    this.#parts.trainer.train();
    this.#parts.sync()?.report();
  }
}
