// SPDX-License-Identifier: Apache-2.0
// The control plane's picture of the fleet: which endpoint has which row, how healthy it is, what it reported. The only
// writer of endpoint rows.

import type { AttachedKernel } from "../../wasm/kernel.ts";
import { Saturation } from "../admission/saturation.ts";
import { type Address, formatAddress } from "../base/address.ts";
import type { Clock } from "../base/clock.ts";
import type { Config } from "../config/schema.ts";
import type { EndpointConfig } from "../config/clusters.ts";
import type { RuleConfig } from "../config/models.ts";
import { Prober, type ProbeResult, type ProbeTarget } from "../engines/prober.ts";
import { type Backend, readSignals } from "../engines/signals.ts";
import { HiddenPrefills } from "../scheduler/hidden_prefills.ts";
import { adapterNumber } from "../scheduler/placement.ts";
import { labelSetsOf, memberships } from "../scheduler/eligibility.ts";
import { ENDPOINT_STATE_NAMES, EndpointState, EndpointTable } from "../tables/endpoint_table.ts";
import type { Log } from "../telemetry/log.ts";
import { HeldAdapters } from "./adapters.ts";
import type { TrainedEndpoints } from "./trainer.ts";
import { FleetHealth, type Patient } from "./fleet_health.ts";

export interface Member extends ProbeTarget, Patient {
  readonly cluster: string;
  readonly clusterRow: number;
  readonly backend: Backend | undefined;
  readonly address: Address;
  /** HOST:PORT */
  readonly name: string;
  readonly healthUrl: string | undefined;
  readonly metricsUrl: string | undefined;
  readonly labels: Record<string, string>;
  readonly row: number;
  readonly adapters: HeldAdapters;
  promptTokens: number;
  metricsAt: number | undefined;
}

/** One endpoint as `/endpoints` shows it. */
export interface EndpointView {
  cluster: string;
  address: string;
  port: number;
  state: (typeof ENDPOINT_STATE_NAMES)[number];
  in_flight: number;
  prompt_bytes: number;
  remote_in_flight: number;
  remote_prompt_bytes: number;
  dispatched: number;
  waiting: number | null;
  running: number | null;
  kv_usage: number | null;
  kv_capacity_chunks: number;
  metrics_age_ms: number | null;
  failures: number;
  ejections: number;
  reluctant: boolean;
  slow_start_requests: number;
  adapters: readonly string[];
  labels: Record<string, string>;
}

const CHUNK_BYTES = 512;

export class Fleet {
  readonly table: EndpointTable;
  readonly #members: Member[] = [];
  readonly #byRow = new Map<number, Member>();
  readonly #byCluster = new Map<string, Member[]>();
  readonly #prober: Prober<Member> | undefined;
  readonly health: FleetHealth<Member>;
  readonly #hidden: HiddenPrefills;
  readonly #saturation: Saturation;
  #cancelSaturation: () => void = () => {};
  /** Is told when engines hold other adapters than before. */
  onAdapters: (adapters: [adapter: string, model: string][]) => void = () => {};

  constructor(readonly kernel: AttachedKernel, readonly config: Config, readonly clock: Clock, readonly log: Log) {
    const { prefill_tokens_per_s, bytes_per_token } = config.prediction;
    this.table = new EndpointTable(kernel, 1_000 / (prefill_tokens_per_s * bytes_per_token));
    this.#hidden = new HiddenPrefills(kernel);
    this.#saturation = new Saturation(kernel, this.table, config.saturation);
    this.health = new FleetHealth(this.table, config, clock, log, (member) => this.#returned(member));
    const { probes } = config;
    if (probes.enabled) {
      this.#prober = new Prober<Member>(
        {
          healthIntervalMs: probes.health_interval_ms,
          metricsIntervalMs: probes.metrics_interval_ms,
          timeoutMs: probes.timeout_ms,
          concurrency: probes.concurrency,
        },
        clock,
        (member, result) => this.#probed(member, result),
      );
    }
    this.#addStatic();
  }

  #addStatic(): void {
    const labelSets = labelSetsOf(this.config);
    const rulesOf = new Map<string, RuleConfig>();
    for (const { rules } of Object.values(this.config.model_mapping_rule)) rulesOf.set(rules[0].cluster, rules[0]);
    this.config.clusters.forEach(({ name, endpoints, kv_capacity_tokens }, clusterRow) => {
      for (const endpoint of endpoints) {
        const { port, labels } = endpoint;
        const address = { hostname: endpoint.address, port };
        const capacity = this.#chunks(kv_capacity_tokens);
        const row = this.table.add(clusterRow, address, capacity, memberships(labelSets, name, labels));
        const rule = rulesOf.get(name);
        const member: Member = {
          cluster: name,
          clusterRow,
          backend: rule?.backend,
          address,
          name: formatAddress(address),
          ...probeUrls(this.config, rule, endpoint),
          labels,
          row,
          adapters: new HeldAdapters(),
          promptTokens: 0,
          metricsAt: undefined,
        };
        this.#members.push(member);
        this.#byRow.set(row, member);
        this.#byCluster.set(name, [...this.membersOf(name) as Member[], member]);
        this.health.add(member);
        this.#prober?.add(member);
      }
    });
  }

  #chunks(tokens: number): number {
    return Math.max(1, Math.min(2 ** 28, Math.floor(tokens * this.config.prediction.bytes_per_token / CHUNK_BYTES)));
  }

  start(): void {
    this.#prober?.start();
    this.health.start();
    this.#watchSaturation();
  }

  #watchSaturation(): void {
    const now = this.clock.now();
    this.config.clusters.forEach(({ name }, row) => {
      this.#saturation.update(
        row,
        this.membersOf(name).map((member) => ({
          row: member.row,
          metricsAgeMs: member.metricsAt === undefined ? undefined : now - member.metricsAt,
        })),
      );
    });
    this.#cancelSaturation = this.clock.after(this.config.saturation.interval_ms, () => this.#watchSaturation());
  }

  /** How full a cluster is; 1 is full. */
  saturationOf(clusterRow: number): number {
    return this.#saturation.of(clusterRow);
  }

  stop(): void {
    this.#prober?.stop();
    this.#cancelSaturation();
    this.health.stop();
  }

  #probed(member: Member, { healthy, metrics, ms }: ProbeResult): void {
    if (healthy !== undefined) this.health.probed(member, healthy);
    if (metrics !== undefined) this.#measured(member, metrics, ms);
  }

  // It may have been restarted: what it held is not known any more.
  #returned(member: Member): void {
    this.kernel.exports.indexForget(member.row);
    if (member.adapters.names.length > 0) {
      member.adapters.forget();
      this.#adaptersChanged(member);
    }
  }

  #adaptersChanged(member: Member): void {
    this.table.setAdapters(member.row, member.adapters.names.map(adapterNumber));
    this.onAdapters(this.adapters());
  }

  /** Adapters that engines hold, each with the first model of its cluster. */
  adapters(): [adapter: string, model: string][] {
    const held = new Map<string, string>();
    for (const { cluster, adapters } of this.#members) {
      const model = this.#modelOf(cluster);
      if (model !== undefined) { for (const name of adapters.names) held.set(name, model); }
    }
    return [...held];
  }

  #modelOf(cluster: string): string | undefined {
    const models = Object.entries(this.config.model_mapping_rule);
    return models.find(([, { rules }]) => rules[0].cluster === cluster)?.[0];
  }

  /** Drains the endpoint HOST:PORT in every cluster that has it, or lets it serve again; false when there is none. */
  setDraining(name: string, draining: boolean): boolean {
    const members = this.#members.filter((member) => member.name === name);
    for (const member of members) {
      if (draining) this.health.drain(member);
      else this.health.resume(member);
    }
    return members.length > 0;
  }

  #measured(member: Member, text: string | null, probeMs: number): void {
    const nowMs = this.clock.shared();
    const signals = text === null || member.backend === undefined ? {} : readSignals(member.backend, text);
    this.table.setGauges(member.row, {
      waiting: signals.waiting ?? NaN,
      running: signals.running ?? NaN,
      kvUsage: signals.kvUsage ?? NaN,
    });
    if (text !== null) member.metricsAt = this.clock.now();
    // The count is of a moment while the probe was under way: who was sent after its beginning is not in it.
    const done = this.#hidden.observe(member.row, signals.waiting ?? NaN, nowMs - probeMs, nowMs);
    if (done > 0) this.kernel.exports.fill(member.clusterRow, member.row, nowMs);
    if (signals.kvCapacityTokens !== undefined) {
      this.table.setCapacity(member.row, this.#chunks(signals.kvCapacityTokens));
    }
    if (signals.promptTokens !== undefined) {
      if (signals.promptTokens < member.promptTokens) this.#returned(member);
      member.promptTokens = signals.promptTokens;
    }
    if (signals.adapters && member.adapters.seen(signals.adapters)) this.#adaptersChanged(member);
  }

  /** What the trainer writes to. */
  trained(): TrainedEndpoints {
    const members = this.#members;
    return {
      table: this.table,
      *rows() {
        for (const { cluster, name, row } of members) yield [`${cluster}/${name}`, row];
      },
    };
  }

  get size(): number {
    return this.#members.length;
  }

  /** Endpoints that may be chosen. */
  get available(): number {
    return this.#members.filter(({ row }) => this.table.state(row) === EndpointState.available).length;
  }

  /** The endpoint of a row. */
  memberOf(row: number): Readonly<Member> | undefined {
    return this.#byRow.get(row);
  }

  membersOf(cluster: string): readonly Readonly<Member>[] {
    return this.#byCluster.get(cluster) ?? [];
  }

  /** HOST:PORT of a row. */
  nameOf(row: number): string {
    const member = this.#byRow.get(row);
    return member?.name ?? "";
  }

  view(): EndpointView[] {
    const known = (value: number) => Number.isNaN(value) ? null : value;
    const now = this.clock.now();
    return this.#members.map((member) => {
      const { cluster, address: { hostname, port }, labels, row, metricsAt, adapters } = member;
      const { waiting, running, kvUsage } = this.table.gauges(row);
      return {
        cluster,
        address: hostname,
        port,
        state: ENDPOINT_STATE_NAMES[this.table.state(row)],
        in_flight: this.table.requests(row),
        prompt_bytes: this.table.promptBytes(row),
        remote_in_flight: this.table.remoteRequests(row),
        remote_prompt_bytes: this.table.remotePromptBytes(row),
        dispatched: this.table.dispatched(row),
        waiting: known(waiting),
        running: known(running),
        kv_usage: known(kvUsage),
        kv_capacity_chunks: this.table.capacityChunks(row),
        metrics_age_ms: metricsAt === undefined ? null : Math.round(now - metricsAt),
        failures: this.table.failures(row),
        ejections: this.health.of(member).ejections,
        reluctant: !this.table.willing(row),
        slow_start_requests: this.table.penalty(row),
        adapters: adapters.names,
        labels,
      };
    });
  }
}

// Where an endpoint is asked for its health and its metrics. Triton has an HTTP server for both, beside its gRPC one.
function probeUrls(config: Config, rule: RuleConfig | undefined, endpoint: EndpointConfig) {
  const { address, port, health_port, metrics_port } = endpoint;
  const { health_path, metrics_path } = config.probes;
  const url = (at: number, path: string) => `http://${formatAddress({ hostname: address, port: at })}${path}`;
  if (rule?.backend !== "triton") {
    return { healthUrl: url(health_port ?? port, health_path), metricsUrl: url(metrics_port ?? port, metrics_path) };
  }
  const http = health_port ?? (rule.triton?.protocol === "http" ? port : undefined);
  return {
    healthUrl: http === undefined ? undefined : url(http, "/v2/health/ready"),
    metricsUrl: metrics_port === undefined ? undefined : url(metrics_port, metrics_path),
  };
}
