// SPDX-License-Identifier: Apache-2.0
// A data plane thread: attaches to the shared memory, assembles the pipeline and serves. Everything that a request needs
// is put together here, once.

import { attachKernel } from "../../wasm/kernel.ts";
import { Admission } from "../admission/admission.ts";
import { Limits } from "../admission/limits.ts";
import { Tenants } from "../admission/tenants.ts";
import { systemClock } from "../base/clock.ts";
import { GatewayError } from "../base/errors.ts";
import { Deadlines } from "../base/deadlines.ts";
import { holding } from "../gateway/answer.ts";
import type { Exchange, ExchangeContext } from "../gateway/exchange.ts";
import { Dispatcher } from "../gateway/dispatch.ts";
import { Front } from "../gateway/front.ts";
import { Pipeline } from "../gateway/pipeline.ts";
import { RouteTable } from "../gateway/routes.ts";
import { StoredResponses } from "../gateway/stored_responses.ts";
import { TritonTranscoder } from "../gateway/triton/transcoder.ts";
import { DecisionMaker } from "../scheduler/decision.ts";
import { LocalScheduler } from "../scheduler/local_scheduler.ts";
import { EndpointTable } from "../tables/endpoint_table.ts";
import { GrantWatch } from "../tables/grant_watch.ts";
import { PinTable } from "../tables/pin_table.ts";
import { ownCells } from "../tables/metric_cells.ts";
import { SampleWriter } from "../tables/sample_ring.ts";
import { PredictorTable } from "../tables/predictor_table.ts";
import { ownShareReader } from "../tables/tenant_table.ts";
import { RequestTable } from "../tables/request_table.ts";
import { AccessLog } from "../telemetry/access_log.ts";
import { Instruments, unknownModel, WORKER_CELLS } from "../telemetry/instruments.ts";
import { Log } from "../telemetry/log.ts";
import { openTracing } from "../telemetry/tracing.ts";
import { EndpointPools } from "../upstream/endpoint_pools.ts";
import { KserveClients } from "../upstream/kserve.ts";
import { RetryBudget } from "../upstream/retry_budget.ts";
import type { FromWorker, StartWorker, ToWorker } from "./protocol.ts";

const HEARTBEAT_MS = 500;
/** How often the event loop's delay is sampled. */
const LOOP_SAMPLE_MS = 50;
/** For the error events of streams that the drain deadline cuts. */
const LAST_WORDS_MS = 500;
const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
const scope = self as unknown as {
  onmessage: ((event: MessageEvent<ToWorker>) => void) | null;
  postMessage(message: FromWorker): void;
  close(): void;
};

scope.onmessage = ({ data }) => {
  if (data.kind !== "start") return;
  try {
    start(data);
  } catch (error) {
    scope.postMessage({ kind: "failed", message: (error as Error).message });
  }
};

function classLimits({ requests, bytes, max_wait_ms }: { requests: number; bytes: number; max_wait_ms: number }) {
  return { requests, bytes, maxWaitMs: max_wait_ms };
}

function start({ shared, worker, seed, config, listen, tls, via, started }: StartWorker): void {
  const kernel = attachKernel(shared, worker, seed);
  const log = new Log(config.log.level, `worker ${worker}`);
  const clock = systemClock;
  const deadlines = new Deadlines(clock);
  const endpoints = new EndpointTable(kernel);
  const requests = new RequestTable(kernel);
  const instruments = new Instruments(ownCells(kernel), config.limits.models);
  const tenants = new Tenants(config);
  const limiter = new Limits(kernel, clock.shared, ownShareReader(kernel));
  const predictors = new PredictorTable(kernel);
  const decisions = new DecisionMaker(kernel);
  const pools = new EndpointPools(endpoints, deadlines, {
    connectMs: config.timeouts.connect_ms,
    responseHeaderMs: config.timeouts.response_header_ms,
    firstByteMs: config.timeouts.first_byte_ms,
    streamIdleMs: config.timeouts.stream_idle_ms,
    responseHeaderBytes: config.limits.response_header_bytes,
    interimAnswers: config.limits.interim_answers,
    idleConnections: config.limits.idle_connections_per_endpoint,
    idleConnectionMs: config.timeouts.idle_connection_ms,
  });
  const accessLog = config.log.enabled ? new AccessLog(config.log.path) : undefined;
  const active = new Set<Exchange>();
  const context: ExchangeContext = {
    clock,
    instruments,
    active,
    accessLog,
    tracing: openTracing(),
    unknownModel: unknownModel(config.limits.models),
    via,
    exposeEndpoint: config.expose_endpoint,
    deadlines,
    samples: new SampleWriter(kernel),
    requestMs: config.timeouts.request_ms,
    tenants,
    limits: limiter,
    ownFields: {
      tenant: config.tenancy.tenant_headers.map((name) => name.toLowerCase()),
      priority: config.tenancy.priority_headers.map((name) => name.toLowerCase()),
      keys: tenants.authenticates,
    },
    serve: config.tenants.length > 0 || config.tenancy.trust_headers
      ? (tenant, tokens) => kernel.exports.serve(tenant, tokens * config.prediction.bytes_per_token)
      : undefined,
    origins: config.cors?.origins,
  };
  const { outliers, limits, admission } = config;
  const dispatcher = new Dispatcher(pools, endpoints, {
    retries: config.retries,
    budget: new RetryBudget({
      percent: config.retry_budget.percent,
      minPerSecond: config.retry_budget.min_per_second,
    }, clock),
    answers: {
      wholeBytes: limits.whole_answer_bytes,
      eventBytes: limits.event_bytes,
      hold: holding(deadlines, config.timeouts.first_event_hold_ms),
    },
    backpressureMs: outliers.enabled ? outliers.backpressure_ms : 0,
    maxBackpressureMs: outliers.enabled ? outliers.max_backpressure_ms : 0,
  });
  const routes = new RouteTable(config);
  const responses = new StoredResponses(new PinTable(kernel), endpoints, dispatcher, context, config);
  const kserve = new KserveClients({ connectMs: config.timeouts.connect_ms, mostMessageBytes: limits.body_bytes });
  const triton = new TritonTranscoder({
    clients: kserve,
    deadlines,
    bytesPerToken: config.prediction.bytes_per_token,
    firstByteMs: config.timeouts.first_byte_ms,
    streamIdleMs: config.timeouts.stream_idle_ms,
    eventBytes: limits.event_bytes,
  });
  const scheduler = new LocalScheduler(decisions, requests, endpoints, clock, deadlines, new GrantWatch(kernel), {
    classes: [classLimits(admission.critical), classLimits(admission.standard), classLimits(admission.batch)],
    refreshMs: config.queue.refresh_ms,
    preempt: admission.preempt,
  });
  let loopDelayMs = 0;
  const pipeline = new Pipeline({
    config,
    context,
    deadlines,
    routes,
    decisions,
    scheduler,
    dispatcher,
    responses,
    triton,
    admission: new Admission(tenants, limiter, admission, {
      saturation: (cluster) => decisions.saturation(cluster),
      backlogMs: (cluster, tenant) => decisions.backlogMs(cluster, tenant),
      now: clock.shared,
      overloaded() {
        if (loopDelayMs > admission.loop_delay_ms) return `its event loop is ${Math.round(loopDelayMs)} ms late`;
        if (admission.memory_bytes > 0 && instruments.cells[WORKER_CELLS.memory] > admission.memory_bytes) {
          return `its memory is above ${admission.memory_bytes} bytes`;
        }
      },
    }),
    usageEstimate(model, promptBytes, most) {
      const outputTokens = most ?? (instruments.meanCompletion(model) || config.prediction.output_tokens);
      const bytesPerToken = predictors.bytesPerToken(model) || config.prediction.bytes_per_token;
      return { inputTokens: promptBytes / bytesPerToken, outputTokens };
    },
    log,
  });
  const front = new Front({ pipeline, context, routes, responses, started, corsMaxAgeS: config.cors?.max_age_s });

  const beat = (): void => {
    instruments.cells[WORKER_CELLS.heartbeat]++;
    instruments.cells[WORKER_CELLS.savesDropped] = decisions.savesDropped;
    instruments.cells[WORKER_CELLS.logLinesDropped] = accessLog?.dropped ?? 0;
    instruments.cells[WORKER_CELLS.memory] = admission.memory_bytes > 0 ? Deno.memoryUsage().rss : 0;
    pools.sweep();
  };
  let loopAt = clock.now();
  const loopTimer = setInterval(() => {
    const now = clock.now();
    loopDelayMs = Math.max(0, now - loopAt - LOOP_SAMPLE_MS, loopDelayMs / 2);
    instruments.loopDelay(Math.max(0, now - loopAt - LOOP_SAMPLE_MS) / 1_000);
    loopAt = now;
  }, LOOP_SAMPLE_MS);
  beat();
  const heart = setInterval(beat, HEARTBEAT_MS);
  const serving = {
    reusePort: true,
    onError(error: unknown) {
      // A client that left, or was let go, while its answer was streamed: accounted for by the pipeline.
      if (error instanceof GatewayError && error.code === "client_closed") return new Response(null, { status: 500 });
      log.error("a request failed outside the pipeline", { error: String(error) });
      return new Response(null, { status: 500 });
    },
  };
  const answer = (request: Request) => front.handle(request);
  let waiting = tls ? 2 : 1;
  const onListen = () => {
    if (--waiting === 0) scope.postMessage({ kind: "serving" });
  };
  const servers: Deno.HttpServer[] = [Deno.serve({ ...listen, ...serving, onListen }, answer)];
  if (tls) {
    const { address: { hostname, port }, cert, key } = tls;
    servers.push(Deno.serve({ hostname, port, ...serving, cert, key, onListen }, answer));
  }

  scope.onmessage = async ({ data }) => {
    if (data.kind === "adapters") routes.setAdapters(data.adapters);
    if (data.kind !== "drain") return;
    // Stop accepting and let what is in flight finish; what is left at the deadline is told so and ends.
    const over = Promise.all(servers.map((server) => server.shutdown()));
    await Promise.race([over, pause(data.deadlineMs)]);
    const left = active.size;
    for (const exchange of active) exchange.cut();
    if (left > 0) await Promise.race([over, pause(LAST_WORDS_MS)]);
    clearInterval(heart);
    clearInterval(loopTimer);
    scheduler.close();
    pools.close();
    kserve.close();
    deadlines.close();
    accessLog?.close();
    scope.postMessage({ kind: "drained", cut: left });
  };
}
