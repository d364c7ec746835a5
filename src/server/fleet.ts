// SPDX-License-Identifier: Apache-2.0
// The control plane's picture of the fleet: which endpoint has which row, how healthy it is, what it reported. The only
// writer of endpoint rows.

import type { AttachedKernel } from "../../wasm/kernel.ts";
import { formatAddress } from "../base/address.ts";
import type { Clock } from "../base/clock.ts";
import type { Config } from "../config/schema.ts";
import { Prober, type ProbeResult } from "../engines/prober.ts";
import { type Backend, readSignals } from "../engines/signals.ts";
import { labelSetsOf, memberships } from "../scheduler/eligibility.ts";
import { ENDPOINT_STATE_NAMES, EndpointState, EndpointTable } from "../tables/endpoint_table.ts";
import type { Log } from "../telemetry/log.ts";

export interface Member {
  readonly cluster: string;
  readonly clusterRow: number;
  readonly backend: Backend | undefined;
  readonly address: string;
  readonly port: number;
  readonly origin: string;
  readonly labels: Record<string, string>;
  readonly row: number;
  failures: number;
  successes: number;
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
  labels: Record<string, string>;
}

const CHUNK_BYTES = 512;
/** How often connect failures that workers met are looked at. */
const WATCH_MS = 50;

export class Fleet {
  readonly table: EndpointTable;
  readonly #members: Member[] = [];
  readonly #byRow = new Map<number, Member>();
  readonly #byCluster = new Map<string, Member[]>();
  readonly #prober: Prober<Member> | undefined;
  #cancel: () => void = () => {};

  constructor(readonly kernel: AttachedKernel, readonly config: Config, readonly clock: Clock, readonly log: Log) {
    this.table = new EndpointTable(kernel);
    const { probes } = config;
    if (probes.enabled) {
      this.#prober = new Prober<Member>(
        {
          healthPath: probes.health_path,
          healthIntervalMs: probes.health_interval_ms,
          metricsPath: probes.metrics_path,
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
    const backends = new Map<string, Backend>();
    for (const { rules } of Object.values(this.config.model_mapping_rule)) {
      backends.set(rules[0].cluster, rules[0].backend);
    }
    this.config.clusters.forEach(({ name, endpoints, kv_capacity_tokens }, clusterRow) => {
      for (const { address, port, labels } of endpoints) {
        const where = { hostname: address, port };
        const row = this.table.add(
          clusterRow,
          where,
          this.#chunks(kv_capacity_tokens),
          memberships(labelSets, name, labels),
        );
        const member: Member = {
          cluster: name,
          clusterRow,
          backend: backends.get(name),
          address,
          port,
          origin: `http://${formatAddress(where)}`,
          labels,
          row,
          failures: 0,
          successes: 0,
          promptTokens: 0,
          metricsAt: undefined,
        };
        this.#members.push(member);
        this.#byRow.set(row, member);
        this.#byCluster.set(name, [...this.membersOf(name) as Member[], member]);
        this.#prober?.add(member);
      }
    });
  }

  #chunks(tokens: number): number {
    return Math.max(1, Math.min(2 ** 28, Math.floor(tokens * this.config.prediction.bytes_per_token / CHUNK_BYTES)));
  }

  start(): void {
    this.#prober?.start();
    this.#watch();
  }

  stop(): void {
    this.#prober?.stop();
    this.#cancel();
  }

  // Workers count connect failures as they meet them: an endpoint that refuses is out long before its next probe.
  readonly #watch = (): void => {
    if (this.#prober) {
      for (const member of this.#members) {
        if (this.table.failures(member.row) >= this.config.probes.unhealthy_after) {
          this.#out(member, "connect failures");
        }
      }
    }
    this.#cancel = this.clock.after(WATCH_MS, this.#watch);
  };

  #probed(member: Member, { healthy, metrics }: ProbeResult): void {
    if (healthy === false) {
      member.successes = 0;
      if (++member.failures >= this.config.probes.unhealthy_after) this.#out(member, "failed probes");
    } else if (healthy === true) {
      member.failures = 0;
      if (++member.successes >= this.config.probes.healthy_after) this.#back(member);
    }
    if (metrics !== undefined) this.#measured(member, metrics);
  }

  #out(member: Member, why: string): void {
    if (this.table.state(member.row) !== EndpointState.available) return;
    member.successes = 0;
    this.table.setState(member.row, EndpointState.unhealthy);
    this.log.warn("endpoint is unhealthy", { cluster: member.cluster, endpoint: member.origin, why });
  }

  #back(member: Member): void {
    if (this.table.state(member.row) !== EndpointState.unhealthy) return;
    // It may have been restarted: what it held is not known any more.
    this.kernel.exports.indexForget(member.row);
    this.table.clearFailures(member.row);
    this.table.setState(member.row, EndpointState.available);
    this.log.info("endpoint is available", { cluster: member.cluster, endpoint: member.origin });
  }

  #measured(member: Member, text: string | null): void {
    const signals = text === null || member.backend === undefined ? {} : readSignals(member.backend, text);
    this.table.setGauges(member.row, {
      waiting: signals.waiting ?? NaN,
      running: signals.running ?? NaN,
      kvUsage: signals.kvUsage ?? NaN,
    });
    if (text !== null) member.metricsAt = this.clock.now();
    if (signals.kvCapacityTokens !== undefined) {
      this.table.setCapacity(member.row, this.#chunks(signals.kvCapacityTokens));
    }
    if (signals.promptTokens !== undefined) {
      if (signals.promptTokens < member.promptTokens) this.kernel.exports.indexForget(member.row);
      member.promptTokens = signals.promptTokens;
    }
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
    return member ? member.origin.slice("http://".length) : "";
  }

  view(): EndpointView[] {
    const known = (value: number) => Number.isNaN(value) ? null : value;
    const now = this.clock.now();
    return this.#members.map(({ cluster, address, port, labels, row, metricsAt }) => {
      const { waiting, running, kvUsage } = this.table.gauges(row);
      return {
        cluster,
        address,
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
        labels,
      };
    });
  }
}
