// SPDX-License-Identifier: Apache-2.0
// The center inside the gateway's own process: no network between them. Peers learn of every change by replication.

import type { Change } from "./center.ts";
import type { CenterLink, LinkListener } from "./link.ts";
import type { CenterEvent, CenterServer } from "./server.ts";
import { InvalidInput } from "./wire.ts";

const RENEW_MS = 500;

export class EmbeddedLink implements CenterLink {
  readonly #server: CenterServer;
  readonly #gateway: string;
  readonly #replicate: (event: CenterEvent) => void;
  readonly #hasPeers: () => boolean;
  #unwatch: (() => void)[] = [];
  #timer: ReturnType<typeof setInterval> | undefined;
  #refused = 0;

  constructor(
    server: CenterServer,
    gateway: string,
    replicate: (event: CenterEvent) => void,
    hasPeers: () => boolean,
  ) {
    this.#server = server;
    this.#gateway = gateway;
    this.#replicate = replicate;
    this.#hasPeers = hasPeers;
  }

  send(_cluster: string, events: CenterEvent[]): void {
    for (const event of events) {
      try {
        this.#server.apply(event);
      } catch (error) {
        if (!(error instanceof InvalidInput)) throw error;
        this.#refused++;
      }
      this.#replicate(event);
    }
  }

  start(clusters: string[], listener: LinkListener): void {
    const { center } = this.#server;
    const renew = (): void => {
      this.send("", [{ type: "lease.renew", body: { gateway: this.#gateway } }]);
      for (const cluster of clusters) listener.fresh(cluster);
    };
    renew();
    this.#timer = setInterval(renew, RENEW_MS);
    for (const cluster of clusters) {
      const changed = (change: Change): void => {
        if (change.kind === "load") {
          listener.loads(cluster, [center.loadOf(cluster, change.engine, this.#gateway)], false);
        } else if (change.save.gateway !== this.#gateway) listener.saved(cluster, change.save, change.save.hashes);
      };
      this.#unwatch.push(center.watch(cluster, changed));
    }
  }

  wantsSaves(): boolean {
    return this.#hasPeers() || this.#server.watching || this.#server.center.gateways > 1;
  }

  stop(): Promise<void> {
    clearInterval(this.#timer);
    for (const unwatch of this.#unwatch) unwatch();
    this.#unwatch = [];
    return Promise.resolve();
  }

  view(): { center: string; state: string; dropped: number }[] {
    return [{ center: "embedded", state: "available", dropped: this.#refused }];
  }
}
