// SPDX-License-Identifier: Apache-2.0
// What a worker serves by. The parts that last as long as the worker are made once; what a snapshot of the configuration
// decides is put together anew for each one, and requests that began under an older snapshot keep theirs to their end.

import type { AttachedKernel } from "../../wasm/kernel.ts";
import { Admission } from "../admission/admission.ts";
import { Limits } from "../admission/limits.ts";
import { Tenants } from "../admission/tenants.ts";
import { systemClock } from "../base/clock.ts";
import { coarse } from "../base/coarse_clock.ts";
import { Deadlines } from "../base/deadlines.ts";
import { GatewayError } from "../base/errors.ts";
import type { Config } from "../config/schema.ts";
import type { Snapshot } from "../config/snapshot.ts";
import { enginesWith } from "../engines/backends.ts";
import { tritonEngine } from "../engines/triton/triton.ts";
import type { DirectServerParts } from "../front/direct/server.ts";
import { Leavers, systemConnections } from "../front/http/leavers.ts";
import type { HttpRequest } from "../front/http/exchange.ts";
import { Front } from "../front/http/front.ts";
import type { HttpContext } from "../front/http/http_call.ts";
import type { Call, CallContext } from "../gateway/call.ts";
import { Dispatcher } from "../gateway/dispatch.ts";
import { DecisionWatch, type ShownDecision } from "../gateway/decision_watch.ts";
import { Pipeline } from "../gateway/pipeline.ts";
import { RouteTable } from "../gateway/routes.ts";
import { StoredResponses } from "../gateway/stored_responses.ts";
import { DecisionMaker } from "../scheduler/decision.ts";
import { queueLimits } from "../scheduler/queue_limits.ts";
import { SharedQueue } from "../scheduler/shared_queue.ts";
import { EndpointDirectory } from "../tables/endpoint_directory.ts";
import { EndpointAdapters } from "../tables/endpoint_adapters.ts";
import { EndpointPulse } from "../tables/endpoint_pulse.ts";
import { EndpointState, EndpointTable } from "../tables/endpoint_table.ts";
import { GrantWatch } from "../tables/grant_watch.ts";
import { allCells, ownCells } from "../tables/metric_cells.ts";
import { ResponseTable } from "../tables/response_table.ts";
import { PredictorTable } from "../tables/predictor_table.ts";
import { RequestTable } from "../tables/request_table.ts";
import { SampleWriter } from "../tables/sample_ring.ts";
import { ownShareReader } from "../tables/tenant_table.ts";
import { CellLayout, WORKER_CELLS } from "../telemetry/cells.ts";
import { Instruments } from "../telemetry/instruments.ts";
import { Log } from "../telemetry/log.ts";
import { ModelReadings } from "../telemetry/readings.ts";
import { openTracing } from "../telemetry/tracing.ts";
import type { PromptTokens } from "../tokens/prompt_tokens.ts";
import { EndpointPools } from "../upstream/endpoint_pools.ts";
import { KserveClients } from "../upstream/kserve.ts";
import { poolLimits } from "../upstream/pool_limits.ts";
import { PLAIN } from "../upstream/transport.ts";
import { Transports } from "../upstream/transports.ts";
import { RetryBudget } from "../upstream/retry_budget.ts";
import { bound, directParts } from "./direct_parts.ts";
import { boundExtProc, type ExtProcParts, extProcParts } from "./ext_proc_parts.ts";
import { hedgeParts } from "./hedge_parts.ts";
import { WorkerLogs } from "./logs.ts";
import type { WorkerSetup } from "./protocol.ts";
import { silenceParts } from "./silence_parts.ts";
import { configureTokens, openTokens } from "../control/tokens.ts";
import { TICK_MS, Vitals } from "./vitals.ts";

const clock = systemClock;

/** Requests under one snapshot. */
interface Generation {
  readonly version: number;
  readonly front: Front;
  readonly active: Set<Call>;
}

export class Serving {
  readonly log: Log;
  /** What direct listeners need. */
  readonly direct: DirectServerParts;
  /** What Envoy is answered with. */
  readonly extProc: ExtProcParts;
  readonly instruments: Instruments;
  readonly watch: DecisionWatch;
  readonly vitals: Vitals;
  readonly ticks = coarse(clock, TICK_MS, (ms) => this.vitals.late(ms));
  readonly #deadlines = new Deadlines(this.ticks, TICK_MS);
  readonly #endpoints: EndpointTable;
  readonly #readings: ModelReadings;
  readonly #pulse: EndpointPulse;
  readonly #adapters: EndpointAdapters;
  readonly #decisions: DecisionMaker;
  readonly #predictors: PredictorTable;
  readonly #limiter: Limits;
  readonly #scheduler: SharedQueue;
  readonly #pools: EndpointPools;
  readonly #kserve: KserveClients;
  readonly #directory: EndpointDirectory;
  readonly #responses: StoredResponses;
  readonly #budget: RetryBudget;
  readonly #samples: SampleWriter;
  readonly #tracing = openTracing();
  readonly #transports = new Transports();
  readonly #tokens: PromptTokens;
  readonly #leavers = new Leavers(clock, systemConnections, 0);
  readonly #logs: WorkerLogs;
  #current: Generation;
  /** Older snapshots that requests still use. */
  readonly #older = new Set<Generation>();
  readonly #status = { leaving: false };

  /** @param tellDecision Is told decisions while somebody watches. */
  constructor(
    readonly kernel: AttachedKernel,
    readonly setup: WorkerSetup,
    snapshot: Snapshot,
    tellDecision: (decision: ShownDecision) => void,
  ) {
    const { config } = snapshot;
    this.log = new Log(config.log.level, `worker ${kernel.worker}`);
    this.#logs = new WorkerLogs(this.log);
    const layout = new CellLayout(config.limits);
    this.instruments = new Instruments(ownCells(kernel), layout);
    this.vitals = new Vitals(this.instruments);
    this.#endpoints = new EndpointTable(kernel);
    this.#readings = new ModelReadings(allCells(kernel), layout, clock);
    this.#pulse = new EndpointPulse(kernel);
    this.#adapters = new EndpointAdapters(kernel);
    this.#decisions = new DecisionMaker(kernel);
    this.#predictors = new PredictorTable(kernel);
    this.#limiter = new Limits(kernel, clock.shared, ownShareReader(kernel));
    const grants = new GrantWatch(kernel);
    const requests = new RequestTable(kernel);
    this.#scheduler = new SharedQueue({
      decisions: this.#decisions,
      requests,
      endpoints: this.#endpoints,
      pulse: this.#pulse,
      clock,
      deadlines: this.#deadlines,
      grants,
    });
    this.#pools = new EndpointPools(this.#deadlines, poolLimits(config));
    this.#kserve = new KserveClients({
      connectMs: config.timeouts.connect_ms,
      maxMessageBytes: config.limits.body_bytes,
    });
    this.#directory = new EndpointDirectory(this.#endpoints);
    this.watch = new DecisionWatch({
      decisions: this.#decisions,
      clock,
      nameOf: (row) => this.#directory.of(row).name,
      tell: tellDecision,
    });
    this.#responses = new StoredResponses(new ResponseTable(kernel), this.#endpoints);
    this.#budget = new RetryBudget(budgetOf(config), clock);
    this.#samples = new SampleWriter(kernel);
    this.#endpoints.failureBackoffMs = failureBackoffOf(config);
    this.#tokens = openTokens(this.log);
    this.#current = this.#generation(snapshot);
    const answer = (request: HttpRequest) => this.#current.front.handle(request);
    this.direct = directParts(this.#deadlines, this.instruments, answer);
    this.extProc = extProcParts(this.#deadlines, answer, () => this.#current.front.options.notReady() === undefined);
    this.#bound(config);
    this.#publishOldest();
  }

  /** Requests that begin from now on are served by this one. */
  take(snapshot: Snapshot): void {
    const { config } = snapshot;
    this.log.level = config.log.level;
    Object.assign(this.#pools.limits, poolLimits(config));
    this.#kserve.options.connectMs = config.timeouts.connect_ms;
    this.#budget.limits = budgetOf(config);
    this.#endpoints.failureBackoffMs = failureBackoffOf(config);
    this.#bound(config);
    const before = this.#current;
    this.#current = this.#generation(snapshot);
    if (before.active.size > 0) this.#older.add(before);
    this.#publishOldest();
  }

  #bound(config: Config): void {
    bound(this.direct, config);
    boundExtProc(this.extProc, config);
    configureTokens(this.#tokens, config);
  }

  // Where the control plane sees which snapshot is the oldest in use here.
  #publishOldest(): void {
    let oldest = this.#current.version;
    for (const generation of this.#older) {
      if (generation.active.size === 0) this.#older.delete(generation);
      else oldest = Math.min(oldest, generation.version);
    }
    this.instruments.cells[WORKER_CELLS.snapshot] = oldest;
  }

  #generation(snapshot: Snapshot): Generation {
    const { config } = snapshot;
    const active = new Set<Call>();
    const tenants = new Tenants(config, snapshot.rows.tenants);
    const transports = this.#transports.update(snapshot.access);
    const routes = new RouteTable(snapshot, (cluster) => transports.get(cluster) ?? PLAIN);
    const calls = this.#callContext(config, active, tenants);
    const { via } = this.setup;
    const context: HttpContext = { calls, via, origins: config.cors?.origins, status: this.#status };
    const dispatcher = this.#dispatcher(config);
    const parts = { config, context, deadlines: this.#deadlines };
    this.#leavers.ms = config.timeouts.leaver_look_ms;
    const pipeline = this.#pipeline(config, routes, dispatcher, this.#admission(config, tenants));
    const front = new Front({
      context,
      inference: { ...parts, pipeline, leavers: this.#leavers },
      stored: {
        ...parts,
        responses: this.#responses,
        dispatcher,
        directory: this.#directory,
        transportOf: (row) => {
          const [cluster] = [...snapshot.rows.clusters].find(([, at]) => this.#endpoints.rowsOf(at).includes(row)) ??
            [];
          return transports.get(cluster ?? "") ?? PLAIN;
        },
      },
      routes,
      paths: new Map(config.routes.map(({ path, kind }) => [path, kind])),
      started: this.setup.started,
      admin: this.setup.admin,
      notReady: () => this.#notReady(snapshot),
      corsMaxAgeS: config.cors?.max_age_s,
    });
    return { version: snapshot.version, front, active };
  }

  #notReady({ rows }: Snapshot): GatewayError | undefined {
    if (this.#status.leaving) return new GatewayError("draining", "The gateway is about to end");
    const { available } = EndpointState;
    for (const cluster of rows.clusters.values()) {
      if (this.#endpoints.rowsOf(cluster).some((row) => this.#endpoints.state(row) === available)) return undefined;
    }
    return new GatewayError("no_endpoint", "No endpoint is available");
  }

  #callContext(config: Config, active: Set<Call>, tenants: Tenants): CallContext {
    const { kernel } = this;
    this.#logs.configure(config);
    return {
      clock,
      deadlines: this.#deadlines,
      instruments: this.instruments,
      accessLog: this.#logs.access,
      llmLog: this.#logs.texts,
      gateway: this.setup.gateway,
      tracing: this.#tracing,
      unknownModel: this.instruments.layout.unknownModel,
      active,
      idle: () => {
        if (this.#older.size > 0) this.#publishOldest();
      },
      samples: this.#samples,
      requestMs: config.timeouts.request_ms,
      tenants,
      limits: this.#limiter,
      ownFields: {
        tenant: config.tenancy.tenant_headers.map((name) => name.toLowerCase()),
        priority: config.tenancy.priority_headers.map((name) => name.toLowerCase()),
        keys: tenants.authenticates,
      },
      serve: config.tenants.length > 0 || config.tenancy.trust_headers
        ? (tenant, tokens) => kernel.exports.serve(tenant, tokens * config.prediction.bytes_per_token)
        : undefined,
      exposeEndpoint: config.expose_endpoint,
    };
  }

  #dispatcher(config: Config): Dispatcher {
    const { retries, limits, outliers } = config;
    return new Dispatcher(this.#pools, this.#endpoints, {
      silence: silenceParts(config, {
        deadlines: this.#deadlines,
        pulse: this.#pulse,
        endpoints: this.#endpoints,
        predictors: this.#predictors,
        readings: this.#readings,
        instruments: this.instruments,
        log: this.log,
      }),
      retries,
      budget: this.#budget,
      answers: {
        wholeBytes: limits.whole_answer_bytes,
        eventBytes: limits.event_bytes,
      },
      backpressureMs: outliers.enabled ? outliers.backpressure_ms : 0,
      maxBackpressureMs: outliers.enabled ? outliers.max_backpressure_ms : 0,
      missing: (endpoint) => this.#adapters.ask(endpoint),
      withheld: (endpoint) =>
        this.log.warn("an engine wants a key: name it by api_key_file or api_key_env, or set forward_credentials", {
          endpoint,
        }),
      atFault: (endpoint, { rejected, peer }) =>
        this.log.warn("an endpoint rejects what a peer answers", { endpoint, status: rejected, peer_status: peer }),
    });
  }

  #admission({ admission }: Config, tenants: Tenants): Admission {
    return new Admission(tenants, this.#limiter, admission, {
      saturation: (cluster) => this.#decisions.saturation(cluster),
      backlogMs: (cluster, tenant) => this.#decisions.backlogMs(cluster, tenant),
      now: clock.shared,
      overloaded: () => this.vitals.overloaded(admission),
    });
  }

  #pipeline(config: Config, routes: RouteTable, dispatcher: Dispatcher, admission: Admission): Pipeline {
    const { prediction, limits, timeouts } = config;
    return new Pipeline({
      config,
      deadlines: this.#deadlines,
      routes,
      decisions: this.#decisions,
      scheduler: this.#scheduler,
      queue: queueLimits(config),
      dispatcher,
      responses: this.#responses,
      engines: enginesWith(tritonEngine({
        clients: this.#kserve,
        deadlines: this.#deadlines,
        bytesPerToken: prediction.bytes_per_token,
        firstByteMs: timeouts.first_byte_ms,
        streamIdleMs: timeouts.stream_idle_ms,
        eventBytes: limits.event_bytes,
      })),
      admission,
      watch: this.watch,
      hedging: hedgeParts(config, {
        clock,
        deadlines: this.#deadlines,
        readings: this.#readings,
        instruments: this.instruments,
      }),
      tokens: this.#tokens,
      usageEstimate: (model, promptBytes, maxTokens) => ({
        inputTokens: promptBytes / (this.#predictors.bytesPerToken(model) || prediction.bytes_per_token),
        outputTokens: maxTokens ?? (this.#readings.meanCompletion(model) || prediction.output_tokens),
      }),
      log: this.log,
    });
  }

  /** Says that the worker is alive, and tidies up. @param memory Whether the memory is measured too. */
  beat(memory: boolean): void {
    const { access, texts } = this.#logs.dropped;
    const counts = new Map([
      [WORKER_CELLS.savesDropped, this.#decisions.caches.savesDropped],
      [WORKER_CELLS.logLinesDropped, access],
      [WORKER_CELLS.llmLinesDropped, texts],
    ]);
    this.vitals.beat(counts, memory);
    this.#pools.sweep();
    this.#publishOldest();
  }

  /** Whether the configuration in force bounds the memory. */
  get boundsMemory(): boolean {
    return this.#current.front.options.inference.config.admission.memory_bytes > 0;
  }

  /** Clients are asked to come back on another connection: to another process, as this one is about to end. */
  leave(): void {
    this.#status.leaving = true;
  }

  /** Ends the requests under way with an error of their own; returns how many there were. */
  cut(): number {
    let cut = 0;
    for (const { active } of [this.#current, ...this.#older]) {
      cut += active.size;
      for (const call of active) call.cancellation.cut();
    }
    return cut;
  }

  /** Resolves when its logs are written. */
  async close(): Promise<void> {
    this.#scheduler.close();
    this.#tokens.close();
    this.#pools.close();
    this.#kserve.close();
    this.#leavers.close();
    this.#deadlines.close();
    await this.#logs.close();
  }
}

function failureBackoffOf({ outliers }: Config): number {
  return outliers.enabled ? outliers.failure_backoff_ms : 0;
}

function budgetOf({ retry_budget }: Config) {
  return { percent: retry_budget.percent, minPerSecond: retry_budget.min_per_second };
}
