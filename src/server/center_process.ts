// SPDX-License-Identifier: Apache-2.0
// A metadata center with its listener, its replication and its housekeeping: inside a gateway or alone.

import { type Address, formatAddress, parseAddress } from "../base/address.ts";
import { systemClock } from "../base/clock.ts";
import { VERSION } from "../base/version.ts";
import { Visitors } from "../base/visitors.ts";
import { readToken } from "../config/access.ts";
import type { MetadataCenterConfig } from "../config/metadata_center.ts";
import { Center, DEFAULT_CENTER_LIMITS } from "../metadata/center.ts";
import { DirectFetch, type Https } from "../metadata/direct_fetch.ts";
import { Replication } from "../metadata/replication.ts";
import { CenterServer } from "../metadata/server.ts";
import { LineFile } from "../telemetry/line_file.ts";
import { Log } from "../telemetry/log.ts";
import { readCertificate } from "./listen_checks.ts";
import { isFree, serveOn } from "./listeners.ts";

export interface CenterProcess {
  /** Where it serves; undefined when its standard address was taken by another process and none was asked for. */
  readonly address: Address | undefined;
  readonly center: Center;
  readonly server: CenterServer;
  readonly replication: Replication;
  stop(): Promise<void>;
}

export const DEFAULT_CENTER_ADDRESS = "127.0.0.1:8080";

/**
 * Starts a center on `config.listen`; port 0 takes a free one. Throws Error when that address is taken; the standard one
 * does without a listener then, so that a gateway which nobody reports to starts all the same.
 * With `share` another process of the same user may serve there too: it is about to end.
 */
export async function startCenter(
  config: MetadataCenterConfig,
  share = false,
  log = new Log("info", "center"),
): Promise<CenterProcess> {
  const peers = new Set<string>(config.peers);
  const token = await readToken(config, "metadata_center");
  const replication = new Replication({
    peers: () => [...peers],
    coalesceMs: 1,
    timeoutMs: 1_000,
    attempts: 2,
    queue: config.queue_size,
  }, new DirectFetch(await httpsOf(config), token));
  const certificate = config.tls && await readCertificate(config.tls, "metadata_center.tls");
  const { watchers, ...limits } = config.limits;
  const center = new Center(systemClock, {
    ...DEFAULT_CENTER_LIMITS,
    ...limits,
    leaseMs: config.lease_ms,
    expiryMs: config.expiry_ms,
  });
  const { access_log } = config;
  const accessLog = access_log.enabled
    ? new LineFile({
      ...access_log,
      failed: ({ message }) => log.error("a log cannot be written", { path: access_log.path, error: message }),
    })
    : undefined;
  const server = new CenterServer(center, {
    replicate: replication.publish,
    version: VERSION,
    log,
    accessLog,
    visitors: new Visitors({ hosts: config.hosts, token }),
    watchers,
  });
  const listen = config.listen ?? DEFAULT_CENTER_ADDRESS;
  const listener = config.listen === undefined && !isFree(listen)
    ? undefined
    : serveOn(listen, "metadata_center.listen", server.handle, share, certificate);
  const address = listener && { hostname: parseAddress(listen)!.hostname, port: listener.addr.port };
  const timers = [
    setInterval(() => replication.lost(center.expireLeases()), Math.max(50, config.lease_ms / 10)),
    setInterval(() => server.collectGarbage(), config.gc_interval_ms),
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
      // What it still answers is written before the log ends.
      await listener?.shutdown();
      await accessLog?.close();
    },
  };
}

/** How centers are reached by HTTPS; undefined for cleartext. */
export async function httpsOf({ https }: MetadataCenterConfig): Promise<Https | undefined> {
  return https && { caCerts: https.ca_file === undefined ? [] : [await Deno.readTextFile(https.ca_file)] };
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
