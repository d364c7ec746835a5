// SPDX-License-Identifier: Apache-2.0
// Endpoints behind a DNS name: every address that it has is one (A and AAAA), or every target of a service (SRV). The name
// is looked up again and again, as the runtime does not tell how long an answer is good for.
//
// A look-up that fails changes nothing. That a name has no records at all is believed when it was said several times in a
// row: resolvers say it for a moment while a service is replaced.

import { formatAddress, parseAddress } from "../base/address.ts";
import type { Clock } from "../base/clock.ts";
import { pause } from "../base/pause.ts";
import type { DnsConfig } from "../config/clusters.ts";
import type { Discovery, EndpointSpec, Update } from "./discovery.ts";

/** Answers without a record after which the name is taken to have none. */
const EMPTY_ANSWERS = 3;

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
    let known: string | undefined;
    let empty = 0;
    let synced = false;
    while (!signal.aborted) {
      const endpoints = await this.#lookUp();
      empty = endpoints.length === 0 ? empty + 1 : 0;
      const told = JSON.stringify(endpoints);
      if (endpoints.length === 0 && known !== undefined && empty < EMPTY_ANSWERS) {
        // not believed yet
      } else if (endpoints.length === 0 && known !== "[]") {
        known = "[]";
        yield { kind: "does_not_exist", cluster: this.cluster };
      } else if (told !== known) {
        known = told;
        yield { kind: "reset", cluster: this.cluster, endpoints };
      }
      if (!synced) yield { kind: "synced" };
      synced = true;
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
