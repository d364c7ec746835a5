// SPDX-License-Identifier: Apache-2.0
// Endpoints behind a DNS name: every address that it has is one (A and AAAA), or every target of a service (SRV). The name
// is looked up again and again, as the runtime does not tell how long an answer is good for.
//
// A look-up that fails changes nothing, and neither does one without a record: the runtime does not tell whether the name
// has none or its server failed. Engines that have really gone are seen by their probes.

import { formatAddress, parseAddress } from "../base/address.ts";
import type { Clock } from "../base/clock.ts";
import { pause } from "../base/pause.ts";
import type { DnsConfig } from "../config/clusters.ts";
import type { Discovery, EndpointSpec, Update } from "./discovery.ts";

export type Resolve = (name: string, type: "A" | "AAAA" | "SRV", options?: Deno.ResolveDnsOptions) => Promise<
  readonly (string | Deno.SrvRecord)[]
>;

export class DnsDiscovery implements Discovery {
  readonly name: string;

  constructor(
    readonly cluster: string,
    readonly config: DnsConfig,
    readonly clock: Clock,
    readonly resolve: Resolve = Deno.resolveDns as Resolve,
  ) {
    const { name, port } = config;
    this.name = `dns ${port === undefined ? name : formatAddress({ hostname: name, port })}`;
  }

  async *watch(signal: AbortSignal): AsyncGenerator<Update> {
    let known = "";
    while (!signal.aborted) {
      const endpoints = await this.#lookUp();
      if (endpoints.length === 0) throw new Error(`no record of ${this.config.name} (${this.config.type})`);
      const told = JSON.stringify(endpoints);
      if (told !== known) yield { kind: "reset", cluster: this.cluster, endpoints };
      if (known === "") yield { kind: "synced" };
      known = told;
      await pause(this.config.interval_ms, this.clock, signal);
    }
  }

  async #lookUp(): Promise<EndpointSpec[]> {
    const { name, port, type, labels, health_port, metrics_port } = this.config;
    const spec = (host: string, at: number): EndpointSpec => ({
      host,
      port: at,
      rank: 0,
      labels,
      healthPort: health_port,
      metricsPort: metrics_port,
    });
    const found: EndpointSpec[] = [];
    if (type === "SRV") {
      for (const record of await this.#records(name, "SRV") as Deno.SrvRecord[]) {
        const target = record.target.replace(/\.$/, "");
        for (const address of await this.#addresses(target)) found.push(spec(address, record.port));
      }
    } else {
      const types = type === "any" ? ["A", "AAAA"] as const : [type];
      for (const one of types) {
        for (const address of await this.#records(name, one) as string[]) found.push(spec(address, port!));
      }
    }
    const key = ({ host, port }: EndpointSpec) => `${host} ${port}`;
    const unique = new Map(found.map((one) => [key(one), one]));
    return [...unique.values()].sort((a, b) => key(a) < key(b) ? -1 : 1);
  }

  async #addresses(name: string): Promise<string[]> {
    return [...await this.#records(name, "A"), ...await this.#records(name, "AAAA")] as string[];
  }

  // No record is an answer; anything else that goes wrong is none.
  async #records(name: string, type: "A" | "AAAA" | "SRV"): Promise<readonly (string | Deno.SrvRecord)[]> {
    const { server } = this.config;
    const at = server === undefined ? undefined : parseAddress(server)!;
    try {
      return await this.resolve(
        name,
        type,
        at && { nameServer: { ipAddr: at.hostname, port: at.port } },
      );
    } catch (error) {
      if (error instanceof Deno.errors.NotFound) return [];
      throw error;
    }
  }
}
