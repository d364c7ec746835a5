// SPDX-License-Identifier: Apache-2.0
// Parts of a gateway on a manual clock, without a network: what unit tests of its middle need around the part they test.

import { Limits } from "../../src/admission/limits.ts";
import { Tenants } from "../../src/admission/tenants.ts";
import { ManualClock } from "../../src/base/clock.ts";
import { Deadlines } from "../../src/base/deadlines.ts";
import { parseConfig } from "../../src/config/load.ts";
import type { AnswerBody } from "../../src/engines/engine.ts";
import { ServedRequest } from "../../src/front/http/served.ts";
import { openCall } from "../../src/front/http/http_call.ts";
import type { HttpContext } from "../../src/front/http/http_call.ts";
import type { RelayGrant } from "../../src/front/http/relay.ts";
import type { Call, CallContext } from "../../src/gateway/call.ts";
import type { Kind } from "../../src/openai/api.ts";
import { DecisionMaker } from "../../src/scheduler/decision.ts";
import type { Placement } from "../../src/scheduler/placement.ts";
import { policyOf } from "../../src/scheduler/policy.ts";
import type { Ask } from "../../src/scheduler/scheduler.ts";
import { DEFAULT_THETA } from "../../src/scheduler/ttft.ts";
import { SharedQueue } from "../../src/scheduler/shared_queue.ts";
import { EndpointPulse } from "../../src/tables/endpoint_pulse.ts";
import { EndpointTable } from "../../src/tables/endpoint_table.ts";
import { GrantWatch } from "../../src/tables/grant_watch.ts";
import { ownCells } from "../../src/tables/metric_cells.ts";
import { PredictorTable } from "../../src/tables/predictor_table.ts";
import { writeQueueParameters } from "../../src/tables/queue_parameters.ts";
import { RequestTable } from "../../src/tables/request_table.ts";
import { SampleReader, SampleWriter } from "../../src/tables/sample_ring.ts";
import { CellLayout } from "../../src/telemetry/cells.ts";
import { Instruments } from "../../src/telemetry/instruments.ts";
import { Log } from "../../src/telemetry/log.ts";
import type { ResponseHead } from "../../src/upstream/response_head.ts";
import { freshKernel } from "./kernel.ts";

const LAYOUT = new CellLayout({ models: 1, tenants: 2, endpoints: 64, metric_series: 64 });

/** A log that keeps its lines. */
export class KeptLog extends Log {
  readonly lines: string[] = [];
  constructor() {
    super("debug", "test");
  }
  override debug(message: string): void {
    this.lines.push(`debug ${message}`);
  }
  override info(message: string): void {
    this.lines.push(`info ${message}`);
  }
  override warn(message: string): void {
    this.lines.push(`warn ${message}`);
  }
  override error(message: string): void {
    this.lines.push(`error ${message}`);
  }
}

/** Lets everything that is ready run: promises, streams, and timers of no time. */
export const settle = (): Promise<void> => new Promise((resolve) => setTimeout(resolve));

/** What the calls of a worker share, on a clock of its own. */
export function callParts(changes: Partial<CallContext> = {}) {
  const clock = new ManualClock(1_700_000_000_000);
  const deadlines = new Deadlines(clock, 10);
  const kernel = freshKernel({ metricCells: LAYOUT.count });
  const instruments = new Instruments(ownCells(kernel), LAYOUT);
  const calls: CallContext = {
    clock,
    deadlines,
    instruments,
    accessLog: undefined,
    llmLog: undefined,
    gateway: "gateway",
    tracing: undefined,
    unknownModel: 1,
    active: new Set(),
    idle() {},
    exposeEndpoint: false,
    samples: new SampleWriter(kernel),
    requestMs: 60_000,
    tenants: new Tenants(parseConfig({}), new Map()),
    limits: new Limits(kernel, () => 0),
    ownFields: { tenant: [], priority: [], keys: false },
    serve: undefined,
    ...changes,
  };
  const context: HttpContext = { calls, via: "test", origins: undefined, status: { leaving: false } };
  const open = (init: RequestInit = {}, kind: Kind = "chat"): Call =>
    openCall(context, new ServedRequest(new Request("http://x/", { method: "POST", ...init })), kind);
  return { clock, deadlines, kernel, calls, context, open, samples: new SampleReader(kernel) };
}

export const EVENTS: ResponseHead = {
  status: 200,
  headers: [["content-type", "text/event-stream"]],
  framing: { kind: "chunked" },
  keepAlive: true,
};

/** A body whose pieces the test hands out, and that tells what was done with it. */
export class HandedBody implements AnswerBody {
  readonly did: string[] = [];
  #queue: (Uint8Array<ArrayBuffer> | null | Error)[] = [];
  #reading: PromiseWithResolvers<Uint8Array<ArrayBuffer> | null> | undefined;

  hand(...pieces: (string | null | Error)[]): void {
    this.#queue.push(...pieces.map((piece) => typeof piece === "string" ? new TextEncoder().encode(piece) : piece));
    this.#next();
  }
  get reading(): boolean {
    return this.#reading !== undefined;
  }
  #next(): void {
    if (this.#reading === undefined || this.#queue.length === 0) return;
    const { resolve, reject } = this.#reading;
    this.#reading = undefined;
    const next = this.#queue.shift()!;
    if (next instanceof Error) reject(next);
    else resolve(next);
  }
  readBody(): Promise<Uint8Array<ArrayBuffer> | null> {
    this.#reading = Promise.withResolvers();
    const { promise } = this.#reading;
    this.#next();
    return promise;
  }
  fail(error: Error): void {
    this.did.push("fail");
    this.hand(error as Error);
  }
  close(): void {
    this.did.push("close");
  }
  finish(): void {
    this.did.push("finish");
  }
}

/** A grant that tells what was done with it. */
export function toldGrant(): RelayGrant & { did: string[] } {
  const did: string[] = [];
  return {
    did,
    leg: {
      batch: 1,
      remember: () => did.push("remember"),
      firstToken: () => did.push("firstToken"),
      heard() {},
      failed: () => did.push("failed"),
      succeeded: () => did.push("succeeded"),
    },
    [Symbol.dispose]: () => did.push("released"),
  };
}

/** A scheduler over a memory of its own with so many endpoints in cluster 0. */
export function schedulerParts(endpoints: number, config: Record<string, unknown> = {}) {
  const parsed = parseConfig(config);
  const clock = new ManualClock(1_700_000_000_000);
  const deadlines = new Deadlines(clock, 10);
  const kernel = freshKernel();
  writeQueueParameters(kernel, parsed.queue, 4);
  const table = new EndpointTable(kernel);
  const predictors = new PredictorTable(kernel);
  predictors.setRate(0, table.firstRate);
  predictors.restore(0, { samples: 0, covariance: Array(36).fill(0), bytesPerToken: 4, theta: DEFAULT_THETA });
  const rows = Array.from(
    { length: endpoints },
    (_, i) => table.add(0, { hostname: "10.0.0.1", port: 1 + i }, 4_096, 0),
  );
  const requests = new RequestTable(kernel);
  const pulse = new EndpointPulse(kernel);
  const queue = new SharedQueue({
    pulse,
    decisions: new DecisionMaker(kernel),
    requests,
    endpoints: table,
    clock,
    deadlines,
    grants: new GrantWatch(kernel),
  });
  const placement: Placement = { cluster: 0, eligibility: 1, salt: 1, adapter: 0, policy: policyOf(parsed, "m") };
  const limits = { requests: 2, bytes: 1_000_000_000, maxWaitMs: 1_000 };
  const ask = (promptText: string, more: Partial<Ask> = {}): Ask => ({
    placement,
    prompt: promptText,
    model: 0,
    flow: { band: 1_000, tenant: 0, deadlineMs: 0 },
    reserved: { inputTokens: 0, outputTokens: 0 },
    queue: { classes: [limits, limits, limits], refreshMs: 50, preempt: false },
    objectives: { ttftMs: 0, tpotMs: 0 },
    preempt() {},
    hidden: false,
    ...more,
  });
  const close = (): void => {
    queue.close();
    deadlines.close();
  };
  return { clock, deadlines, kernel, table, rows, requests, queue, placement, ask, [Symbol.dispose]: close };
}
