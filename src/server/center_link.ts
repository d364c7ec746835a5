// SPDX-License-Identifier: Apache-2.0
// The link to the metadata center: to the embedded one, which is started here, or to a remote one.

import { systemClock } from "../base/clock.ts";
import { readToken } from "../config/access.ts";
import type { MetadataCenterConfig } from "../config/metadata_center.ts";
import { CenterClient } from "../metadata/client.ts";
import { EmbeddedLink } from "../metadata/embedded.ts";
import { HostList } from "../metadata/hosts.ts";
import type { CenterLink } from "../metadata/link.ts";
import type { Log } from "../telemetry/log.ts";
import { DirectFetch } from "../metadata/direct_fetch.ts";
import { type CenterProcess, httpsOf, startCenter } from "./center_process.ts";

export interface Center {
  readonly link: CenterLink;
  /** Undefined where the center is a remote one. */
  readonly embedded: CenterProcess | undefined;
}

/** Throws Error with a plain message when the embedded center cannot listen. */
export async function openCenter(
  config: MetadataCenterConfig,
  gateway: string,
  log: Log,
  share: boolean,
): Promise<Center> {
  if (config.host !== undefined) {
    const direct = new DirectFetch(await httpsOf(config), await readToken(config, "metadata_center"));
    return { link: clientOf(config, config.host, gateway, direct), embedded: undefined };
  }
  const embedded = await startCenter(config, share, log);
  if (!embedded.address) {
    log.warn("another process listens on 127.0.0.1:8080: the embedded metadata center serves no API", {
      key: "metadata_center.listen",
    });
  }
  const { server, replication } = embedded;
  return { link: new EmbeddedLink(server, gateway, replication.publish, () => replication.hasPeers()), embedded };
}

function clientOf(config: MetadataCenterConfig, host: string, gateway: string, direct: DirectFetch): CenterClient {
  const hosts = new HostList(systemClock, {
    host,
    port: config.port,
    lookupIntervalMs: config.dns_lookup_interval_ms,
    coldStartMs: config.cold_start_delay_ms,
    breaker: {
      maxFailures: config.endpoint_max_failures,
      cooldownMs: config.endpoint_cooldown_ms,
      halfOpenRequests: config.endpoint_half_open_requests,
    },
  });
  return new CenterClient(systemClock, hosts, {
    gateway,
    syncIntervalMs: config.sync_interval_ms,
    coalesceMs: 1,
    updateTimeoutMs: config.update_stats_timeout_ms,
    fetchTimeoutMs: config.fetch_metric_timeout_ms,
    watchSilenceMs: 3_000,
    queue: config.queue_size,
    failoverRetries: config.max_failover_retry,
    renewMs: 500,
  }, direct);
}
