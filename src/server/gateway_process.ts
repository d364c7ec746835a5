// SPDX-License-Identifier: Apache-2.0
// The composition root: one gateway from a config. Plans the memory, starts control plane, workers and admin, and takes
// them down again in order.

import { attachKernel, compileKernel, createSharedKernel } from "../../wasm/kernel.ts";
import { Tenants } from "../admission/tenants.ts";
import { type AdminParts, handleAdmin } from "../admin/admin.ts";
import { metricsPage } from "../admin/metrics_page.ts";
import { type Address, parseAddress } from "../base/address.ts";
import { systemClock } from "../base/clock.ts";
import { VERSION } from "../base/version.ts";
import type { MetadataCenterConfig } from "../config/metadata_center.ts";
import { type Config, configNotes } from "../config/schema.ts";
import { RouteTable } from "../gateway/routes.ts";
import { CenterClient } from "../metadata/client.ts";
import { EmbeddedLink } from "../metadata/embedded.ts";
import { HostList } from "../metadata/hosts.ts";
import type { CenterLink } from "../metadata/link.ts";
import { DecisionMaker } from "../scheduler/decision.ts";
import { PredictorTable } from "../tables/predictor_table.ts";
import { predictByAverages, writeQueueParameters } from "../tables/queue_parameters.ts";
import { tenantLoad, writeOwnShare, writeTenant } from "../tables/tenant_table.ts";
import { SampleReader } from "../tables/sample_ring.ts";
import { sumCells } from "../tables/metric_cells.ts";
import { cellCount, readTenant, unknownModel } from "../telemetry/instruments.ts";
import { Log } from "../telemetry/log.ts";
import { type CenterProcess, startCenter } from "./center_process.ts";
import { Fleet } from "./fleet.ts";
import { reserve, serveOn } from "./listeners.ts";
import { LoadSync } from "./load_sync.ts";
import { Trainer } from "./trainer.ts";
import { SPARE_BLOCKS, Supervisor } from "./supervisor.ts";

export interface GatewayProcess {
  /** Where it listens; a port 0 of the config is resolved. */
  readonly listen: Address;
  /** The HTTPS listener; undefined without one. */
  readonly tls: Address | undefined;
  readonly admin: Address;
  /** Where the embedded metadata center serves; undefined without one. */
  readonly center: CenterProcess | undefined;
  readonly workers: number;
  readonly fleet: Fleet;
  readonly supervisor: Supervisor;
  /** Drains and stops; returns the number of requests that the deadline cut. */
  stop(deadlineMs?: number): Promise<number>;
}

/** Throws Error with a plain message when an address is taken or the limits do not fit into memory. */
export async function startGateway(config: Config): Promise<GatewayProcess> {
  const log = new Log(config.log.level, "control");
  const workers = config.workers === "auto" ? Math.max(1, navigator.hardwareConcurrency - 1) : config.workers;
  for (const note of configNotes(config)) log.warn(note);
  checkDistinct(config);
  await using reserved = reserve(config.listen, "listen");
  const listen = reserved.address;
  await using reservedTls = config.tls && reserve(config.tls.listen, "tls.listen");
  const tls = config.tls && { address: reservedTls!.address, ...await readTls(config.tls) };
  const shared = createSharedKernel(await compileKernel(), {
    workers: 1 + workers + SPARE_BLOCKS,
    clusters: config.limits.clusters,
    endpoints: config.limits.endpoints,
    requestsPerWorker: config.limits.requests_in_flight,
    prefixes: config.limits.prefixes,
    promptChunks: config.limits.prompt_chunks,
    metricCells: cellCount(config.limits.models, config.limits.tenants),
    ringWords: 65_536,
    pins: config.limits.response_pins,
    predictors: 2 * config.limits.models,
    tenants: config.limits.tenants,
  });
  const kernel = attachKernel(shared, 0, crypto.getRandomValues(new Uint32Array(1))[0]);
  writeQueueParameters(kernel, config.queue, config.prediction.bytes_per_token);
  for (let row = 0; row < config.limits.tenants; row++) {
    writeTenant(
      kernel,
      row,
      row === 0 ? config.tenancy.anonymous : config.tenants[row - 1] ?? config.tenancy.anonymous,
    );
  }
  writeOwnShare(kernel, 1);
  if (config.prediction.method === "moving_average") predictByAverages(kernel);
  const fleet = new Fleet(kernel, config, systemClock, log);
  const setup = { config, listen, tls, via: hostname(), started: Math.floor(Date.now() / 1_000) };
  const supervisor = new Supervisor(kernel, shared, setup, log, workers);
  const routes = new RouteTable(config);
  fleet.onAdapters = (adapters) => {
    routes.setAdapters(adapters);
    supervisor.setAdapters(adapters);
  };
  const gatewayId = `${hostname()}-${crypto.randomUUID().slice(0, 8)}`;
  let draining = false;
  let sync: LoadSync | undefined;
  let link: CenterLink | undefined;
  let embedded: CenterProcess | undefined;

  const models = Object.keys(config.model_mapping_rule);
  const tenants = new Tenants(config);
  const predictors = new PredictorTable(kernel);
  const trainer = new Trainer(predictors, new SampleReader(kernel), config, models, fleet.trained(), systemClock, log);
  const parts: AdminParts = {
    config,
    routes,
    decisions: new DecisionMaker(kernel),
    notReady() {
      if (draining) return "draining";
      if (supervisor.serving === 0) return "no worker is serving";
      return fleet.available === 0 ? "no endpoint is available" : undefined;
    },
    endpoints: () => fleet.view(),
    center: () => sync && link ? { gateway: gatewayId, centers: link.view(), clusters: sync.view() } : null,
    workers: () => supervisor.view(),
    nameOf: (row) => fleet.nameOf(row),
    loadOf: (row) => fleet.table.load(row),
    restartWorker: (worker) => supervisor.restart(worker),
    setDraining: (name, draining) => fleet.setDraining(name, draining),
    metrics() {
      const cells = sumCells(kernel);
      return metricsPage({
        version: VERSION,
        cells,
        models,
        predictions: models.map((model, row) => ({
          model,
          samples: predictors.samples(row),
          error: trainer.predictionError(row).error,
          bytesPerToken: predictors.bytesPerToken(row),
        })),
        unknownModel: unknownModel(config.limits.models),
        tenants: tenants.names().map((name, row) => ({
          name,
          counts: readTenant(cells, config.limits.models, row),
          ...tenantLoad(kernel, row),
        })),
        saturation: config.clusters.map(({ name }, row) => ({ cluster: name, value: fleet.saturationOf(row) })),
        ruleCount: Object.values(config.model_mapping_rule).reduce((sum, { rules }) => sum + rules.length, 0),
        loadBalancingRules: Object.keys(config.lb_mapping_rule).length,
        endpoints: fleet.view(),
        clusters: config.clusters.map(({ name }) => name),
        workers: { serving: supervisor.serving, restarts: supervisor.restarts },
        sync: sync?.view() ?? [],
        centers: link?.view() ?? [],
      });
    },
  };
  const stops: (() => Promise<unknown> | void)[] = [];
  const stopAll = async () => {
    for (const stop of stops.reverse()) await stop();
  };
  let admin: Deno.HttpServer<Deno.NetAddr>;
  try {
    admin = serveOn(config.admin.listen, "admin.listen", (request) => handleAdmin(parts, request));
    stops.push(() => admin.shutdown());
    if (config.metadata_center.enabled) {
      ({ link, embedded } = await startLink(config.metadata_center, gatewayId));
      const center = embedded;
      if (center && !center.address) {
        log.warn("another process listens on 127.0.0.1:8080: the embedded metadata center serves no API", {
          key: "metadata_center.listen",
        });
      }
      if (center) stops.push(() => center.stop());
      sync = new LoadSync(kernel, fleet, link, config.metadata_center, systemClock, gatewayId);
      sync.start();
      stops.push(() => sync!.stop());
    }
    fleet.start();
    stops.push(() => fleet.stop());
    trainer.start();
    stops.push(() => trainer.stop());
    await supervisor.start();
  } catch (error) {
    await stopAll();
    throw error;
  }
  return {
    listen,
    tls: tls?.address,
    admin: { hostname: parseAddress(config.admin.listen)!.hostname, port: admin.addr.port },
    center: embedded,
    workers,
    fleet,
    supervisor,
    async stop(deadlineMs = config.timeouts.drain_ms) {
      draining = true;
      const cut = await supervisor.drain(deadlineMs);
      await stopAll();
      return cut;
    },
  };
}

/** The certificate and its key, as PEM. Throws Error with a plain message when a file cannot be read. */
async function readTls({ cert_file, key_file }: NonNullable<Config["tls"]>): Promise<{ cert: string; key: string }> {
  const read = async (key: string, file: string) => {
    try {
      return await Deno.readTextFile(file);
    } catch (error) {
      throw new Error(`Cannot read ${file} (${key}): ${(error as Error).message}`, { cause: error });
    }
  };
  return { cert: await read("tls.cert_file", cert_file), key: await read("tls.key_file", key_file) };
}

function checkDistinct({ listen, tls, admin, metadata_center: center }: Config): void {
  const keys = new Map<string, string>();
  for (
    const [key, address] of [["listen", listen], ["tls.listen", tls?.listen], ["admin.listen", admin.listen], [
      "metadata_center.listen",
      center.listen,
    ]]
  ) {
    if (address === undefined || address.endsWith(":0")) continue;
    const other = keys.get(address!);
    if (other) throw new Error(`Cannot listen on ${address}: ${other} and ${key} are the same address`);
    keys.set(address!, key!);
  }
}

/** The link to the metadata center: to the embedded one, which is started here, or to a remote one. */
async function startLink(
  config: MetadataCenterConfig,
  gateway: string,
): Promise<{ link: CenterLink; embedded: CenterProcess | undefined }> {
  if (config.host === undefined) {
    const embedded = await startCenter(config);
    return {
      link: new EmbeddedLink(
        embedded.server,
        gateway,
        embedded.replication.publish,
        () => embedded.replication.hasPeers(),
      ),
      embedded,
    };
  }
  const hosts = new HostList(systemClock, {
    host: config.host,
    port: config.port,
    lookupIntervalMs: config.dns_lookup_interval_ms,
    coldStartMs: config.cold_start_delay_ms,
    breaker: {
      maxFailures: config.endpoint_max_failures,
      cooldownMs: config.endpoint_cooldown_ms,
      halfOpenRequests: config.endpoint_half_open_requests,
    },
  });
  const link = new CenterClient(systemClock, hosts, {
    gateway,
    syncIntervalMs: config.sync_interval_ms,
    coalesceMs: 1,
    updateTimeoutMs: config.update_stats_timeout_ms,
    fetchTimeoutMs: config.fetch_metric_timeout_ms,
    watchSilenceMs: 3_000,
    queue: config.queue_size,
    failoverRetries: config.max_failover_retry,
    renewMs: 500,
  });
  return { link, embedded: undefined };
}

function hostname(): string {
  try {
    return Deno.hostname();
  } catch {
    return "aigw";
  }
}
