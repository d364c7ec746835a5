// SPDX-License-Identifier: Apache-2.0
// The control plane's picture of the fleet: which endpoint has which row, how healthy it is, what it reported. The only
// writer of endpoint rows.
//
// Endpoints come and go while requests run. One that leaves gets nothing new and finishes what it has; its row rests with
// all that is known of it until the drain time is over, in case it comes back, and is then free for another one.

import type { AttachedKernel } from "../../wasm/kernel.ts";
import { Saturation } from "../admission/saturation.ts";
import type { Clock } from "../base/clock.ts";
import { Deadlines } from "../base/deadlines.ts";
import type { ClusterConfig } from "../config/clusters.ts";
import type { RuleConfig } from "../config/models.ts";
import type { Config } from "../config/schema.ts";
import type { KnownAdapter, Snapshot } from "../config/snapshot.ts";
import { type EndpointSpec, everyRank } from "../discovery/discovery.ts";
import { PROBED } from "../engines/backends.ts";
import type { ProbePages } from "../engines/engine.ts";
import type { EngineSignals } from "../engines/signals.ts";
import type { EngineReport } from "../metadata/engine_report.ts";
import { memberships } from "../scheduler/eligibility.ts";
import { EndpointAdapters } from "../tables/endpoint_adapters.ts";
import { EndpointState, EndpointTable } from "../tables/endpoint_table.ts";
import type { Log } from "../telemetry/log.ts";
import { PageReader } from "../upstream/page_reader.ts";
import { poolLimits } from "../upstream/pool_limits.ts";
import type { Transport } from "../upstream/transport.ts";
import { ruleOfEach } from "./effective.ts";
import { FleetHealth } from "./fleet_health.ts";
import { adaptersOf } from "./known_adapters.ts";
import { Member } from "./member.ts";
import { Probing } from "./probing.ts";
import { UnknownModels } from "./unknown_models.ts";

const CHUNK_BYTES = 512;
/** How often rows that rest are looked at. */
const COLLECT_MS = 250;
/** When engines are first asked for lists that nothing waits for. */
const FIRST_MODELS_MS = 1_500;
/** How often lists of models are asked for because of requests for unknown ones, at most. */
const LIST_MS = 500;
/** A row rests at least this long: what waits forgets by then what it knew of it. */
const REST_MS = 2_000;

/** What the fleet tells the rest of the control plane. */
export interface FleetListener {
  /** Engines hold other adapters, or list other models, than before. */
  changed(): void;
  /** A cluster has other endpoints, or on other rows, than before. */
  members(cluster: string): void;
  /** Rows are about to become others': what still names them has to be read first. */
  freeing(): void;
  freed(row: number): void;
  /** This gateway has read an endpoint's metrics: `ageMs` ago they were asked for. */
  measured(member: Member, signals: EngineSignals, ageMs: number): void;
}

interface ClusterState {
  row: number;
  config: ClusterConfig;
  rule: RuleConfig | undefined;
  labelBits: ReadonlyMap<string, number>;
  transport: Transport;
  /** What its sources told, and what is wanted of that: each of the ranks. */
  told: readonly EndpointSpec[];
  wanted: Map<string, EndpointSpec>;
  readonly members: Map<string, Member>;
}

export class Fleet {
  readonly table: EndpointTable;
  readonly health: FleetHealth<Member>;
  readonly #clusters = new Map<string, ClusterState>();
  readonly #byRow = new Map<number, Member>();
  readonly #probing: Probing;
  readonly #adapters: EndpointAdapters;
  readonly #deadlines: Deadlines;
  readonly #saturation: Saturation;
  #config: Config;
  #listener: FleetListener = { changed() {}, members() {}, freeing() {}, freed() {}, measured() {} };
  readonly #cancels = new Map<string, () => void>();
  readonly #unknownModels: UnknownModels;
  /** Endpoints that found no row. */
  #unplaced = 0;
  /** Whether that was said: it is tried again several times a second. */
  #toldUnplaced = false;
  #started = false;

  constructor(readonly kernel: AttachedKernel, config: Config, readonly clock: Clock, readonly log: Log) {
    this.#config = config;
    const { prefill_tokens_per_s, bytes_per_token } = config.prediction;
    this.table = new EndpointTable(kernel, 1_000 / (prefill_tokens_per_s * bytes_per_token));
    this.#saturation = new Saturation(kernel, this.table, config.saturation);
    this.#deadlines = new Deadlines(clock);
    this.health = new FleetHealth({
      table: this.table,
      config,
      clock,
      log,
      returned: (member) => this.#probing.returned(member),
      looked: (member) => {
        if (this.#adapters.takeAsked(member.row)) this.#probing.list(member);
      },
    });
    this.#probing = new Probing({
      kernel,
      table: this.table,
      health: this.health,
      clock,
      log,
      config: () => this.#config,
      changed: () => this.#listener.changed(),
      measured: (member, signals, ageMs) => this.#listener.measured(member, signals, ageMs),
      chunks: (tokens) => this.#chunks(tokens),
    }, clock);
    this.#adapters = new EndpointAdapters(kernel);
    this.#unknownModels = new UnknownModels(kernel);
  }

  listen(listener: FleetListener): void {
    this.#listener = listener;
  }

  /**
   * A configuration comes into force. `labelBits` are all bits that requests may ask a cluster's endpoints for, and
   * `transports` how they are reached.
   */
  configure(
    { config, rows }: Pick<Snapshot, "config" | "rows">,
    labelBits: (cluster: string) => ReadonlyMap<string, number>,
    transports: ReadonlyMap<string, Transport>,
  ): void {
    const probed = this.#config.probes.enabled;
    this.#config = config;
    this.health.configure(config);
    this.#saturation.config = config.saturation;
    this.#probing.configure();
    const rules = ruleOfEach(config);
    for (const cluster of config.clusters) {
      const { name } = cluster;
      const known = this.#clusters.get(name);
      const state = known ??
        { row: rows.clusters.get(name)!, told: [], wanted: new Map(), members: new Map() } as unknown as ClusterState;
      const ranks = known?.config.data_parallel_ranks;
      Object.assign(state, {
        row: rows.clusters.get(name)!,
        config: cluster,
        rule: rules.get(name),
        labelBits: labelBits(name),
        transport: transports.get(name)!,
      });
      this.#clusters.set(name, state);
      for (const member of state.members.values()) this.#equip(member, state);
      if (known && ranks !== cluster.data_parallel_ranks) this.setEndpoints(name, state.told);
    }
    for (const [name, state] of this.#clusters) {
      if (!rows.clusters.has(name)) this.#settle(name, state, new Map());
    }
    if (config.probes.enabled === probed) return;
    for (const member of this.#byRow.values()) {
      if (config.probes.enabled) this.#probe(member);
      else this.#probing.remove(member);
    }
  }

  /** These are a cluster's endpoints from now on. */
  setEndpoints(cluster: string, endpoints: readonly EndpointSpec[]): void {
    const state = this.#clusters.get(cluster);
    if (!state || !this.#config.clusters.some(({ name }) => name === cluster)) return;
    state.told = endpoints;
    this.#settle(cluster, state, everyRank(state.told, state.config.data_parallel_ranks));
  }

  #settle(cluster: string, state: ClusterState, wanted: Map<string, EndpointSpec>): void {
    state.wanted = wanted;
    let changed = false;
    for (const [name, member] of state.members) {
      if (wanted.has(name) || member.leftAt !== undefined) continue;
      member.leftAt = this.clock.now();
      this.health.leave(member);
      changed = true;
    }
    for (const [name, spec] of wanted) changed = this.#want(cluster, state, name, spec) || changed;
    if (changed) this.#listener.members(cluster);
  }

  // Brings a wanted endpoint in; true when that changed who is there.
  #want(cluster: string, state: ClusterState, name: string, spec: EndpointSpec): boolean {
    const known = state.members.get(name);
    if (known) {
      known.spec = spec;
      this.#equip(known, state);
      if (known.leftAt === undefined) return false;
      known.leftAt = undefined;
      this.health.join(known);
      return true;
    }
    const row = this.#rowFor(state, spec);
    if (row === undefined) return false;
    const member = new Member({
      cluster,
      clusterRow: state.row,
      row,
      name,
      spec,
      engine: state.rule && PROBED[state.rule.backend],
      pages: this.#pagesOf(spec, state),
      reader: this.#readerFor(spec.host, state.transport),
      slots: state.config.max_running_requests,
      ranks: state.config.data_parallel_ranks,
    });
    state.members.set(name, member);
    this.#byRow.set(row, member);
    this.table.limits.setParallel(row, state.config.parallel_prefills);
    // Those that are there when the gateway starts share what there is to do from the first request on.
    this.health.add(member, this.#started);
    if (this.#config.probes.enabled) this.#probe(member);
    return true;
  }

  #probe(member: Member): void {
    this.#probing.add(member, this.#clusters.get(member.cluster)!.config.discover_models ? 0 : FIRST_MODELS_MS);
  }

  #rowFor(state: ClusterState, { host, port, rank, labels }: EndpointSpec): number | undefined {
    const [capacity, bits] = [this.#chunks(state.config.kv_capacity_tokens), memberships(state.labelBits, labels)];
    for (const again of [false, true]) {
      try {
        return this.table.add(state.row, { hostname: host, port, rank }, capacity, bits);
      } catch (error) {
        if (!(error instanceof RangeError)) throw error;
        if (!again) this.#collect(true);
        else this.#leftOut(error);
      }
    }
  }

  #leftOut({ message }: RangeError): void {
    this.#unplaced++;
    if (!this.#toldUnplaced) this.log.error("an endpoint found no row", { error: message });
    this.#toldUnplaced = true;
  }

  // Gives a member what the configuration says of it now.
  #equip(member: Member, state: ClusterState): void {
    const { spec } = member;
    this.table.setLabels(member.row, memberships(state.labelBits, member.labels));
    member.engine = state.rule && PROBED[state.rule.backend];
    member.slots.configured = state.config.max_running_requests;
    member.ranks = state.config.data_parallel_ranks;
    this.table.limits.setParallel(member.row, state.config.parallel_prefills);
    member.pages = this.#pagesOf(spec, state);
    if (member.reader.transport === state.transport) return;
    member.reader.close();
    member.reader = this.#readerFor(spec.host, state.transport);
  }

  #pagesOf({ port, healthPort, metricsPort }: EndpointSpec, { rule, config }: ClusterState): ProbePages {
    const { health_path: healthPath, metrics_path: metricsPath } = this.#config.probes;
    const engine = PROBED[rule?.backend ?? config.backend ?? "vllm"];
    return engine.probes({ port, healthPort, metricsPort, healthPath, metricsPath }, rule);
  }

  #readerFor(hostname: string, transport: Transport): PageReader {
    return new PageReader(hostname, { transport, deadlines: this.#deadlines, limits: poolLimits(this.#config) });
  }

  #chunks(tokens: number): number {
    return Math.max(1, Math.min(2 ** 28, Math.floor(tokens * this.#config.prediction.bytes_per_token / CHUNK_BYTES)));
  }

  start(): void {
    this.#started = true;
    this.#probing.start();
    this.health.start();
    this.#every("saturation", () => this.#config.saturation.interval_ms, () => this.#watchSaturation());
    this.#every("list", () => LIST_MS, () => this.#unknownModels.wanted && this.#probing.list());
    this.#every("collect", () => COLLECT_MS, () => this.#collect(false));
    this.#every("place", () => COLLECT_MS, () => this.#placeWanted());
  }

  #every(what: string, ms: () => number, run: () => void): void {
    run();
    this.#cancels.set(what, this.clock.after(ms(), () => this.#every(what, ms, run)));
  }

  #watchSaturation(): void {
    const now = this.clock.now();
    for (const { row, members } of this.#clusters.values()) {
      const endpoints = [...members.values()].map((member) => ({
        row: member.row,
        metricsAgeMs: member.metricsAt === undefined ? undefined : now - member.metricsAt,
      }));
      this.#saturation.update(row, endpoints);
    }
  }

  // Frees the rows of those that have left, have finished, and do not come back; at once when rows are `short`.
  #collect(short: boolean): void {
    const now = this.clock.now();
    const restMs = short ? REST_MS : Math.max(REST_MS, this.#config.timeouts.drain_ms);
    const over = [...this.#byRow.values()].filter(({ leftAt, row }) =>
      leftAt !== undefined && now - leftAt >= restMs && this.table.requests(row) === 0
    );
    if (over.length > 0) this.#listener.freeing();
    const changed = new Set<string>();
    for (const member of over) {
      if (!this.table.remove(member.clusterRow, member.row)) continue;
      this.#listener.freed(member.row);
      this.#probing.remove(member);
      this.health.remove(member);
      member.reader.close();
      this.#byRow.delete(member.row);
      this.#clusters.get(member.cluster)?.members.delete(member.name);
      if (member.adapters.names.length > 0 || member.models !== undefined) this.#listener.changed();
      changed.add(member.cluster);
    }
    for (const cluster of changed) this.#listener.members(cluster);
  }

  // Those that found no row try again.
  #placeWanted(): void {
    if (this.#unplaced === 0) return;
    this.#unplaced = 0;
    for (const [name, state] of this.#clusters) this.#settle(name, state, state.wanted);
    this.#toldUnplaced = this.#unplaced > 0;
  }

  /** Whether a cluster has no endpoint any more, so that its row may become another's. */
  forget(cluster: string): boolean {
    if (this.membersOf(cluster).length > 0) return false;
    this.#clusters.delete(cluster);
    return true;
  }

  /** How full a cluster is; 1 is full. */
  saturationOf(clusterRow: number): number {
    return this.#saturation.of(clusterRow);
  }

  async stop(): Promise<void> {
    for (const cancel of this.#cancels.values()) cancel();
    this.health.stop();
    const asked = this.#probing.stop();
    for (const { reader } of this.#byRow.values()) reader.close();
    await asked;
    this.#deadlines.close();
  }

  /** Another gateway has read the metrics of the endpoint on a row. */
  heard(row: number, report: EngineReport): void {
    const member = this.#byRow.get(row);
    if (member !== undefined) this.#probing.heard(member, report);
  }

  /** Adapters that engines list or hold. */
  adapters(config: Config): KnownAdapter[] {
    return adaptersOf([...this.#byRow.values()], config);
  }

  /** Drains the endpoint HOST:PORT, or one rank of it, in every cluster that has it, or lets it serve again; false when there is none. */
  setDraining(name: string, draining: boolean): boolean {
    const members = this.members.filter((member) => member.isCalled(name) && member.leftAt === undefined);
    for (const member of members) {
      if (draining) this.health.drain(member);
      else this.health.resume(member);
    }
    return members.length > 0;
  }

  /** Everybody on a row, those that have left and rest included. */
  get members(): readonly Readonly<Member>[] {
    return [...this.#byRow.values()];
  }

  /** Endpoints that may be chosen. */
  get available(): number {
    return this.members.filter(({ row }) => this.table.state(row) === EndpointState.available).length;
  }

  /** Endpoints that are wanted and found no row. */
  get unplaced(): number {
    return this.#unplaced;
  }

  /** The endpoint of a row. */
  memberOf(row: number): Readonly<Member> | undefined {
    return this.#byRow.get(row);
  }

  membersOf(cluster: string): readonly Readonly<Member>[] {
    return [...this.#clusters.get(cluster)?.members.values() ?? []];
  }

  /** HOST:PORT of a row. */
  nameOf(row: number): string {
    return this.#byRow.get(row)?.name ?? "";
  }
}
