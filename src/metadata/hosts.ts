// SPDX-License-Identifier: Apache-2.0
// The centers that a gateway may ask: an IP as it is, or the addresses behind a DNS name, looked up again and again. A
// cluster's center is the FNV-1a hash of its name modulo the sorted list, then the next ones; a center that has just
// appeared is asked only when no warmer one is there, because it has yet to learn the load.

import { type Clock } from "../base/clock.ts";
import { fnv1a } from "../base/fnv1a.ts";
import { Breaker, type BreakerLimits } from "./breaker.ts";

export interface Host {
  /** HOST:PORT */
  readonly address: string;
  readonly breaker: Breaker;
  readonly sinceMs: number;
  /** Known from the beginning, or an IP of the config: warm at once. */
  readonly warm: boolean;
}

export interface HostListOptions {
  host: string;
  port: number;
  lookupIntervalMs: number;
  coldStartMs: number;
  breaker: BreakerLimits;
  /** Addresses behind a name; Deno.resolveDns by default. */
  resolve?: (name: string) => Promise<string[]>;
}

export class HostList {
  #hosts: Host[] = [];
  #timer: ReturnType<typeof setInterval> | undefined;
  #first = true;

  constructor(readonly clock: Clock, readonly options: HostListOptions) {}

  async start(): Promise<void> {
    const { host } = this.options;
    if (/^[\d.]+$|:/.test(host) || host === "localhost") {
      this.#set([host === "localhost" ? "127.0.0.1" : host]);
      return;
    }
    await this.#lookUp();
    this.#timer = setInterval(() => this.#lookUp(), this.options.lookupIntervalMs);
  }

  async #lookUp(): Promise<void> {
    const resolve = this.options.resolve ?? ((name) => Deno.resolveDns(name, "A"));
    try {
      const found = await resolve(this.options.host);
      if (found.length > 0) this.#set(found);
    } catch {
      // the hosts that are known stay
    }
  }

  #set(ips: string[]): void {
    const addresses = [...new Set(ips)].sort().map((ip) => `${ip}:${this.options.port}`);
    this.#hosts = addresses.map((address) =>
      this.#hosts.find((known) => known.address === address) ?? {
        address,
        breaker: new Breaker(this.clock, this.options.breaker),
        sinceMs: this.clock.now(),
        warm: this.#first,
      }
    );
    this.#first = false;
  }

  get all(): readonly Host[] {
    return this.#hosts;
  }

  /** The hosts to try for a cluster, in order: warm ones from its own on, then cold ones. */
  candidates(cluster: string): Host[] {
    const n = this.#hosts.length;
    if (n === 0) return [];
    const first = fnv1a(cluster) % n;
    const ring = Array.from({ length: n }, (_, i) => this.#hosts[(first + i) % n]);
    const warm = (host: Host) => host.warm || this.clock.now() - host.sinceMs >= this.options.coldStartMs;
    return [...ring.filter(warm), ...ring.filter((host) => !warm(host))];
  }

  stop(): void {
    clearInterval(this.#timer);
  }
}
