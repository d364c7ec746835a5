// SPDX-License-Identifier: Apache-2.0
// A metadata center with its listener, its replication and its housekeeping: inside a gateway or alone.

import { type Address, formatAddress, parseAddress } from "../base/address.ts";
import { systemClock } from "../base/clock.ts";
import { VERSION } from "../base/version.ts";
import type { MetadataCenterConfig } from "../config/metadata_center.ts";
import { Center, DEFAULT_CENTER_LIMITS } from "../metadata/center.ts";
import { Replication } from "../metadata/replication.ts";
import { CenterServer } from "../metadata/server.ts";
import { serveOn } from "./listeners.ts";

export interface CenterProcess {
  readonly address: Address;
  readonly center: Center;
  readonly server: CenterServer;
  readonly replication: Replication;
  stop(): Promise<void>;
}

const COLLECT_MS = 60_000;

/** Starts a center on `config.listen`; port 0 takes a free one. Throws Error when the address is taken. */
export async function startCenter(config: MetadataCenterConfig): Promise<CenterProcess> {
  const peers = new Set<string>(config.peers);
  const replication = new Replication({
    peers: () => [...peers],
    coalesceMs: 1,
    timeoutMs: 1_000,
    attempts: 2,
    queue: config.queue_size,
  });
  const center = new Center(systemClock, { ...DEFAULT_CENTER_LIMITS, leaseMs: config.lease_ms });
  const server = new CenterServer(center, { replicate: replication.publish, version: VERSION });
  const listener = serveOn(config.listen, "metadata_center.listen", server.handle);
  const address = { hostname: parseAddress(config.listen)!.hostname, port: listener.addr.port };
  const timers = [
    setInterval(() => center.expireLeases(), Math.max(50, config.lease_ms / 10)),
    setInterval(() => center.collectGarbage(), COLLECT_MS),
  ];
  if (config.peers_dns !== undefined) {
    const lookUp = () => lookUpPeers(config.peers_dns!, server, peers, config.peers);
    await lookUp();
    timers.push(setInterval(lookUp, config.dns_lookup_interval_ms));
  }
  return {
    address,
    center,
    server,
    replication,
    async stop() {
      for (const timer of timers) clearInterval(timer);
      replication.stop();
      server.close();
      center.close();
      await listener.shutdown();
    },
  };
}

// All addresses behind the name but our own.
async function lookUpPeers(name: string, server: CenterServer, peers: Set<string>, fixed: string[]): Promise<void> {
  const { hostname, port } = parseAddress(name)!;
  try {
    const own = new Set(Deno.networkInterfaces().map(({ address }) => address));
    const found = await Deno.resolveDns(hostname, "A");
    server.metrics.lookedUp(hostname, found);
    const addresses = found.filter((ip) => !own.has(ip)).map((ip) => formatAddress({ hostname: ip, port }));
    peers.clear();
    for (const address of [...fixed, ...addresses]) peers.add(address);
  } catch {
    // the peers that are known stay
  }
}
