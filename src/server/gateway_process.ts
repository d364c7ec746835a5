// SPDX-License-Identifier: Apache-2.0
// The composition root: one gateway from a config. Plans the memory, starts control plane, workers and admin, and takes
// them down again in order.

import { attachKernel, compileKernel, createSharedKernel } from "../../wasm/kernel.ts";
import { type AdminParts, handleAdmin } from "../admin/admin.ts";
import { metricsPage } from "../admin/metrics_page.ts";
import { type Address, formatAddress, parseAddress } from "../base/address.ts";
import { systemClock } from "../base/clock.ts";
import { VERSION } from "../base/version.ts";
import type { Config } from "../config/schema.ts";
import { RouteTable } from "../gateway/routes.ts";
import { DecisionMaker } from "../scheduler/decision.ts";
import { sumCells } from "../tables/metric_cells.ts";
import { cellCount, unknownModel } from "../telemetry/instruments.ts";
import { Log } from "../telemetry/log.ts";
import { Fleet } from "./fleet.ts";
import { Supervisor } from "./supervisor.ts";

export interface GatewayProcess {
  /** Where it listens; a port 0 of the config is resolved. */
  readonly listen: Address;
  readonly admin: Address;
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
  const listen = reserve(config.listen, "listen");
  const shared = createSharedKernel(await compileKernel(), {
    workers: workers + 1,
    clusters: config.limits.clusters,
    endpoints: config.limits.endpoints,
    requestsPerWorker: config.limits.requests_in_flight,
    prefixes: config.limits.prefixes,
    promptChunks: config.limits.prompt_chunks,
    metricCells: cellCount(config.limits.models),
  });
  const kernel = attachKernel(shared, 0, crypto.getRandomValues(new Uint32Array(1))[0]);
  const fleet = new Fleet(kernel, config, systemClock, log);
  const supervisor = new Supervisor(kernel, shared, config, listen, hostname(), log, workers);
  let draining = false;

  const models = Object.keys(config.model_mapping_rule);
  const parts: AdminParts = {
    config,
    routes: new RouteTable(config),
    decisions: new DecisionMaker(kernel),
    notReady() {
      if (draining) return "draining";
      if (supervisor.serving === 0) return "no worker is serving";
      return fleet.available === 0 ? "no endpoint is available" : undefined;
    },
    endpoints: () => fleet.view(),
    workers: () => supervisor.view(),
    nameOf: (row) => fleet.nameOf(row),
    restartWorker: (worker) => supervisor.restart(worker),
    metrics: () =>
      metricsPage({
        version: VERSION,
        cells: sumCells(kernel),
        models,
        unknownModel: unknownModel(config.limits.models),
        ruleCount: Object.values(config.model_mapping_rule).reduce((sum, { rules }) => sum + rules.length, 0),
        loadBalancingRules: Object.keys(config.lb_mapping_rule).length,
        endpoints: fleet.view(),
        clusters: config.clusters.map(({ name }) => name),
        workers: { serving: supervisor.serving, restarts: supervisor.restarts },
      }),
  };
  const admin = serveAdmin(config.admin.listen, (request) => handleAdmin(parts, request));
  try {
    fleet.start();
    await supervisor.start();
  } catch (error) {
    fleet.stop();
    await admin.shutdown();
    throw error;
  }
  return {
    listen,
    admin: { hostname: parseAddress(config.admin.listen)!.hostname, port: admin.addr.port },
    workers,
    fleet,
    supervisor,
    async stop(deadlineMs = config.timeouts.drain_ms) {
      draining = true;
      const cut = await supervisor.drain(deadlineMs);
      fleet.stop();
      await admin.shutdown();
      return cut;
    },
  };
}

// Workers share their port by SO_REUSEPORT, which would also share it with a stranger: a plain listener asks first.
function reserve(text: string, what: string): Address {
  const address = parseAddress(text)!;
  try {
    const listener = Deno.listen(address);
    const { port } = listener.addr as Deno.NetAddr;
    listener.close();
    return { hostname: address.hostname, port };
  } catch (error) {
    throw cannotListen(what, address, error);
  }
}

function serveAdmin(text: string, handler: (request: Request) => Promise<Response>): Deno.HttpServer<Deno.NetAddr> {
  const address = parseAddress(text)!;
  try {
    return Deno.serve({ ...address, onListen() {} }, handler);
  } catch (error) {
    throw cannotListen("admin.listen", address, error);
  }
}

function cannotListen(what: string, address: Address, error: unknown): Error {
  const reason = error instanceof Deno.errors.AddrInUse
    ? "the address is in use by another process"
    : (error as Error).message;
  return new Error(`Cannot listen on ${formatAddress(address)} (${what}): ${reason}`, { cause: error });
}

function hostname(): string {
  try {
    return Deno.hostname();
  } catch {
    return "aigw";
  }
}
