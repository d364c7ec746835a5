// SPDX-License-Identifier: Apache-2.0
// The center inside the gateway's own process: no network between them. Peers learn of every change by replication.

import type { Change } from "./center.ts";
import type { CenterLink, LinkListener } from "./link.ts";
import type { CenterEvent, CenterServer } from "./server.ts";
import { InvalidInput } from "./wire.ts";

const RENEW_MS = 500;
/** Who has asked the center by HTTP is taken to ask again for so long. */
const ASKED_MS = 60_000;

export class EmbeddedLink implements CenterLink {
  readonly #server: CenterServer;
  readonly #gateway: string;
  readonly #replicate: (event: CenterEvent) => void;
  readonly #hasPeers: () => boolean;
  readonly #watched = new Map<string, () => void>();
  #listener: LinkListener | undefined;
  #timer: ReturnType<typeof setInterval> | undefined;
  #refused = 0;
  /** When somebody last asked the center. */
  #askedAt = -Infinity;

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

  start(clusters: readonly string[], listener: LinkListener): void {
    this.#listener = listener;
    this.#server.asked = () => {
      this.#askedAt = performance.now();
      listener.asked();
    };
    this.setClusters(clusters);
    const renew = (): void => {
      this.send("", [{ type: "lease.renew", body: { gateway: this.#gateway } }]);
      for (const cluster of this.#watched.keys()) listener.fresh(cluster);
    };
    renew();
    this.#timer = setInterval(renew, RENEW_MS);
  }

  setClusters(clusters: readonly string[]): void {
    const { center } = this.#server;
    const listener = this.#listener!;
    for (const [cluster, unwatch] of this.#watched) {
      if (clusters.includes(cluster)) continue;
      unwatch();
      this.#watched.delete(cluster);
    }
    for (const cluster of clusters) {
      if (this.#watched.has(cluster)) continue;
      const changed = (change: Change): void => {
        if (change.kind === "load") {
          listener.loads(cluster, [center.loadOf(cluster, change.engine, this.#gateway)], false);
        } else if (change.kind === "report") {
          if (change.told.gateway !== this.#gateway) listener.reported(cluster, change.told, change.told.report);
        } else if (change.save.gateway !== this.#gateway) listener.saved(cluster, change.save, change.save.hashes);
      };
      this.#watched.set(cluster, center.watch(cluster, changed));
      listener.loads(cluster, center.loads(cluster, this.#gateway) ?? [], true);
      listener.fresh(cluster);
    }
  }

  wantsMore(): boolean {
    return this.#hasPeers() || this.#server.watching || this.#server.center.gateways > 1;
  }

  alone(): boolean {
    return !this.wantsMore() && performance.now() - this.#askedAt > ASKED_MS;
  }

  stop(): Promise<void> {
    clearInterval(this.#timer);
    this.#server.asked = undefined;
    for (const unwatch of this.#watched.values()) unwatch();
    this.#watched.clear();
    return Promise.resolve();
  }

  calls(): [] {
    return [];
  }

  view(): { center: string; state: string; dropped: number }[] {
    return [{ center: "embedded", state: "available", dropped: this.#refused }];
  }
}
