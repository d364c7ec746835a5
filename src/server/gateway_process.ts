// SPDX-License-Identifier: Apache-2.0
// The composition root: one gateway from a configuration. Plans the memory, starts control plane, workers and admin, and
// takes them down again in order.

import { type AttachedKernel, attachKernel, compileKernel, createSharedKernel } from "../../wasm/kernel.ts";
import { type AdminParts, handleAdmin } from "../admin/admin.ts";
import { LiveEvents } from "../admin/live_events.ts";
import { FAMILIES } from "../admin/metric_families.ts";
import { writeMetrics } from "../admin/metrics_page.ts";
import { TrafficHistory } from "../admin/traffic_history.ts";
import type { ShownDecision } from "../gateway/decision_watch.ts";
import { type Address, formatAddress, isLoopback, parseAddress } from "../base/address.ts";
import { systemClock } from "../base/clock.ts";
import { coarse } from "../base/coarse_clock.ts";
import { Visitors } from "../base/visitors.ts";
import { readAccess, readToken } from "../config/access.ts";
import { environmentNotes } from "../config/metadata_center.ts";
import { type Config, configNotes } from "../config/schema.ts";
import { fixedConfig } from "../control/config_file.ts";
import { EngineCaches } from "../control/engine_caches.ts";
import { openTokens } from "../control/tokens.ts";
import { ControlPlane } from "../control/control_plane.ts";
import { Fleet } from "../control/fleet.ts";
import { LoadSync } from "../control/load_sync.ts";
import { LostRequests } from "../control/lost_requests.ts";
import { type ConfigSource, Reloader } from "../control/reloader.ts";
import { XdsConfiguration } from "../control/xds_configuration.ts";
import { Trainer } from "../control/trainer.ts";
import { TrainerState } from "../control/trainer_state.ts";
import { PredictorTable } from "../tables/predictor_table.ts";
import { predictByAverages } from "../tables/queue_parameters.ts";
import { SampleReader } from "../tables/sample_ring.ts";
import { writeOwnShare } from "../tables/tenant_table.ts";
import { CellLayout } from "../telemetry/cells.ts";
import { Log } from "../telemetry/log.ts";
import { exportMetrics } from "../telemetry/otel_metrics.ts";
import { exportsTelemetry } from "../telemetry/tracing.ts";
import { adminParts, type AdminSources, metricsOf } from "./admin_parts.ts";
import { liveParts, trafficTotals } from "./live_parts.ts";
import { type Center, openCenter } from "./center_link.ts";
import type { CenterProcess } from "./center_process.ts";
import { checkDistinct, readCertificate } from "./listen_checks.ts";
import { reserve, serveOn } from "./listeners.ts";
import { hostname } from "./hostname.ts";
import { SPARE_AREAS, Supervisor } from "./supervisor.ts";

/** The control plane is woken for its recurring work this often at most. */
const clock = coarse(systemClock, 50);

/** How long a start waits for engines to list their models, where these are to be served. */
const FIRST_MODELS_MS = 3_000;

export interface GatewayProcess {
  /** Where it listens; a port 0 of the config is resolved. */
  readonly listen: Address;
  /** Where it serves beside that, as configured. */
  readonly listeners: readonly Address[];
  /** The HTTPS listener; undefined without one. */
  readonly tls: Address | undefined;
  /** Where Envoy asks. */
  readonly extProc: Address | undefined;
  readonly admin: Address;
  /** Where the embedded metadata center serves; undefined without one. */
  readonly center: CenterProcess | undefined;
  readonly workers: number;
  readonly control: ControlPlane;
  readonly fleet: Fleet;
  readonly supervisor: Supervisor;
  readonly reloader: Reloader;
  /** Is not ready from now on, but still accepts. */
  leave(): void;
  /** Drains and stops; returns the number of requests that the deadline cut. */
  stop(deadlineMs?: number): Promise<number>;
}

export interface GatewayOptions {
  /** Where the configuration comes from; without it, it is the given one for good. */
  readonly source?: ConfigSource;
  /** Share the addresses with a gateway that is running and about to end. */
  readonly shareAddresses?: boolean;
}

/** Throws Error with a plain message when an address is taken or the limits do not fit into memory. */
export async function startGateway(config: Config, options: GatewayOptions = {}): Promise<GatewayProcess> {
  const log = new Log(config.log.level, "control");
  for (const note of [...configNotes(config), ...environmentNotes(Deno.env.toObject())]) log.warn(note);
  checkDistinct(config);
  const { shareAddresses = false } = options;
  using listen = reserve(config.listen, "listen", shareAddresses);
  using further = new DisposableStack();
  const listeners = config.listeners.map(({ address, server }, i) => ({
    address: further.use(reserve(address, `listeners[${i}].address`, shareAddresses)).address,
    server,
  }));
  using tls = config.tls && reserve(config.tls.listen, "tls.listen", shareAddresses);
  using extProc = config.ext_proc && reserve(config.ext_proc.listen, "ext_proc.listen", shareAddresses);
  const access = await readAccess(config);
  const workers = config.workers === "auto" ? Math.max(1, navigator.hardwareConcurrency - 1) : config.workers;
  const shared = createSharedKernel(await compileKernel(), memoryLimits(config, workers));
  const kernel = attachKernel(shared, 0, crypto.getRandomValues(new Uint32Array(1))[0]);
  writeOwnShare(kernel, 1);
  if (config.prediction.method === "moving_average") predictByAverages(kernel);

  const fleet = new Fleet(kernel, config, clock, log);
  const trainer = trainerOf(kernel, config, fleet, log);
  const certificate = config.tls && await readCertificate(config.tls);
  const gatewayId = `${hostname()}-${crypto.randomUUID().slice(0, 8)}`;
  const setup = {
    listen: listen.address,
    listeners,
    tls: tls?.address,
    extProc: extProc?.address,
    via: hostname(),
    admin: "", // until it listens
    gateway: gatewayId,
    started: Math.floor(Date.now() / 1_000),
  };
  const lost = new LostRequests({
    kernel,
    clock,
    log,
    layout: new CellLayout(config.limits),
    nameOf: (row) => fleet.nameOf(row),
  });
  const reap = (area: number) => lost.reap(area);
  const decided = (decision: ShownDecision) => live.decided(decision);
  const supervisor = new Supervisor({ kernel, shared, setup, log, workers, certificate, reap, decided });
  let sync: LoadSync | undefined;
  const control = new ControlPlane({
    kernel,
    clock,
    log,
    fleet,
    trainer,
    sync: () => sync,
    publish: (snapshot) => supervisor.publish(snapshot),
    oldestInUse: () => supervisor.oldestSnapshot,
  }, config);
  const caches = new EngineCaches({
    kernel,
    clock,
    log,
    config: () => control.snapshot.config,
    members: () => fleet.members,
    tokens: openTokens(log),
    emptied: (row) => kernel.exports.indexForget(row),
  });
  const routes = new XdsConfiguration(clock, log, () => reloader.reload("the mesh's routes changed"));
  const reloader: Reloader = new Reloader({
    source: routes.beside(options.source ?? fixedConfig(config)),
    control,
    clock,
    log,
    async prepare({ tls, log: { level } }) {
      const renew = await certificateChange(supervisor, tls);
      return () => {
        log.level = level;
        renew?.();
        routes.set(control.xds);
      };
    },
  });

  let center: Center | undefined;
  const status = { leaving: false };
  const sources: AdminSources = {
    kernel,
    control,
    fleet,
    trainer,
    caches,
    supervisor,
    reloader,
    log,
    status,
    center: () => center && sync && { gatewayId, link: center.link, sync },
  };
  const traffic = new TrafficHistory(clock, () => trafficTotals(sources));
  const live = new LiveEvents(liveParts(sources, traffic));
  const parts: AdminParts = adminParts(sources, live);
  if (exportsTelemetry()) exportMetrics(Object.values(FAMILIES), (sink) => writeMetrics(sink, metricsOf(sources)));
  const stops: (() => Promise<unknown> | void)[] = [];
  const stopAll = async () => {
    for (const stop of stops.splice(0).reverse()) await stop();
  };
  let admin: Deno.HttpServer<Deno.NetAddr>;
  try {
    const visitors = new Visitors({ hosts: config.admin.hosts, token: await readToken(config.admin, "admin") });
    admin = serveOn(
      config.admin.listen,
      "admin.listen",
      (request) => handleAdmin(parts, visitors, request),
      shareAddresses,
      config.admin.tls && await readCertificate(config.admin.tls, "admin.tls"),
    );
    setup.admin = shownAdmin(config.admin, admin.addr.port);
    stops.push(() => admin.shutdown());
    stops.push(() => live.stop());
    control.apply(config, access);
    stops.push(() => control.stop());
    routes.set(control.xds);
    stops.push(() => routes.stop());
    if (config.metadata_center.enabled) {
      center = await openCenter(config.metadata_center, gatewayId, log, shareAddresses);
      if (center.embedded) stops.push(() => center!.embedded!.stop());
      sync = new LoadSync({
        kernel,
        fleet,
        link: center.link,
        config: config.metadata_center,
        clock,
        gateway: gatewayId,
      });
      sync.configure(control.snapshot, [...control.snapshot.rows.clusters.keys()]);
      sync.start();
      stops.push(() => sync!.stop());
    }
    await control.start();
    fleet.start();
    stops.push(() => fleet.stop());
    caches.start();
    stops.push(() => caches.stop());
    await routes.heard(FIRST_MODELS_MS);
    await control.firstModels(FIRST_MODELS_MS);
    trainer.start();
    stops.push(() => trainer.stop());
    await supervisor.start();
    traffic.start();
    stops.push(() => traffic.stop());
    await reloader.start();
    stops.push(() => reloader.stop());
  } catch (error) {
    await stopAll();
    throw error;
  }
  return {
    listen: listen.address,
    listeners: listeners.map(({ address }) => address),
    tls: tls?.address,
    extProc: extProc?.address,
    admin: { hostname: parseAddress(config.admin.listen)!.hostname, port: admin.addr.port },
    center: center?.embedded,
    workers,
    control,
    fleet,
    supervisor,
    reloader,
    leave() {
      status.leaving = true;
      supervisor.leave();
    },
    async stop(deadlineMs = control.config.timeouts.drain_ms) {
      status.leaving = true;
      reloader.stop();
      const cut = await supervisor.drain(deadlineMs);
      await stopAll();
      return cut;
    },
  };
}

function memoryLimits({ limits }: Config, workers: number) {
  return {
    workers: 1 + workers + SPARE_AREAS,
    clusters: limits.clusters,
    endpoints: limits.endpoints,
    requestsPerWorker: limits.requests_in_flight,
    prefixes: limits.prefixes,
    promptChunks: limits.prompt_chunks,
    metricCells: new CellLayout(limits).count,
    ringWords: 65_536,
    responses: limits.stored_responses,
    predictors: 2 * limits.models,
    tenants: limits.tenants,
    blocks: limits.kv_blocks,
  };
}

function trainerOf(kernel: AttachedKernel, config: Config, fleet: Fleet, log: Log): Trainer {
  const endpoints = {
    table: fleet.table,
    *rows(): Generator<[string, number]> {
      for (const { cluster, name, row } of fleet.members) yield [`${cluster}/${name}`, row];
    },
  };
  return new Trainer({
    table: new PredictorTable(kernel),
    reader: new SampleReader(kernel),
    config,
    endpoints,
    clock,
    state: new TrainerState(config.prediction.state_file, log),
  });
}

// The files may be others than before under the same names; ones that cannot be used are found out before anybody listens
// with them.
async function certificateChange(supervisor: Supervisor, tls: Config["tls"]): Promise<(() => void) | undefined> {
  if (!tls || !supervisor.certificate) return undefined;
  const certificate = await readCertificate(tls);
  const { cert, key } = supervisor.certificate;
  if (certificate.cert === cert && certificate.key === key) return undefined;
  try {
    Deno.listenTls({ hostname: "127.0.0.1", port: 0, ...certificate }).close();
  } catch (error) {
    throw new Error(`tls: the certificate and its key cannot be used: ${(error as Error).message}`, { cause: error });
  }
  return () => supervisor.renew(certificate);
}

// Where operators find the admin, as anybody may read it: the whole address only where strangers can do nothing with it.
function shownAdmin({ listen, tls }: Config["admin"], port: number): string {
  const { hostname } = parseAddress(listen)!;
  return isLoopback(hostname) ? `${tls ? "https" : "http"}://${formatAddress({ hostname, port })}/` : `port ${port}`;
}
