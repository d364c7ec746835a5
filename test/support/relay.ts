// SPDX-License-Identifier: Apache-2.0
// The relay without a network: an engine's answer as given pieces, and what the client would see of it.

import { Limits } from "../../src/admission/limits.ts";
import { Tenants } from "../../src/admission/tenants.ts";
import { parseConfig } from "../../src/config/load.ts";
import { systemClock } from "../../src/base/clock.ts";
import { Deadlines } from "../../src/base/deadlines.ts";
import type { AnswerBody } from "../../src/engines/engine.ts";
import { ServedRequest, toResponse } from "../../src/front/http/served.ts";
import { openCall } from "../../src/front/http/http_call.ts";
import type { ReasoningStart } from "../../src/openai/reasoning.ts";
import { relay } from "../../src/front/http/relay.ts";
import { end } from "../../src/gateway/accounting.ts";
import { openAnswer } from "../../src/gateway/answer.ts";
import type { CallContext } from "../../src/gateway/call.ts";
import type { Kind } from "../../src/openai/api.ts";
import type { Usage } from "../../src/openai/usage.ts";
import { ownCells } from "../../src/tables/metric_cells.ts";
import { SampleWriter } from "../../src/tables/sample_ring.ts";
import type { AccessLog, AccessRecord } from "../../src/telemetry/access_log.ts";
import { CellLayout } from "../../src/telemetry/cells.ts";
import { Instruments } from "../../src/telemetry/instruments.ts";
import type { Outcome } from "../../src/telemetry/outcome.ts";
import type { UpstreamError } from "../../src/upstream/errors.ts";
import { freshKernel } from "./kernel.ts";

const deadlines = new Deadlines(systemClock);
const LAYOUT = new CellLayout({ models: 1, tenants: 2, endpoints: 16, metric_series: 64 });
const kernel = freshKernel({ metricCells: LAYOUT.count });
let written: AccessRecord | undefined;
const calls: CallContext = {
  clock: systemClock,
  instruments: new Instruments(ownCells(kernel), LAYOUT),
  accessLog: { takes: () => true, write: (record: AccessRecord) => written = record } as unknown as AccessLog,
  llmLog: undefined,
  gateway: "gateway",
  tracing: undefined,
  unknownModel: 1,
  active: new Set(),
  idle() {},
  exposeEndpoint: false,
  deadlines,
  samples: new SampleWriter(kernel),
  requestMs: 60_000,
  tenants: new Tenants(parseConfig({}), new Map()),
  limits: new Limits(kernel, () => 0),
  ownFields: { tenant: [], priority: [], keys: false },
  serve: undefined,
};
const context = { calls, via: "test", origins: undefined, status: { leaving: false } };

export interface Relayed {
  status: number;
  bytes: Uint8Array;
  usage: Usage | undefined;
  firstTokens: number;
  /** Failures that were told of the endpoint. */
  failures: number;
  released: number;
  finished: boolean;
  outcome: Outcome | undefined;
}

export interface RelayInput {
  kind?: Kind;
  hideUsage?: boolean;
  splitReasoning?: ReasoningStart;
  contentType?: string;
  /** Thrown after the last piece in place of a good end. */
  failure?: UpstreamError;
}

/** Sends pieces through the relay and reads all that comes out. Throws UpstreamError as opening an answer does. */
export async function relayPieces(pieces: Uint8Array<ArrayBuffer>[], input: RelayInput = {}): Promise<Relayed> {
  const kind = input.kind ?? "chat";
  const call = openCall(context, new ServedRequest(new Request("http://x/", { method: "POST" })), kind);
  let next = 0;
  let finished = false;
  const body: AnswerBody = {
    readBody() {
      if (next < pieces.length) return Promise.resolve(pieces[next++]);
      return input.failure ? Promise.reject(input.failure) : Promise.resolve(null);
    },
    fail() {},
    close() {},
    finish: () => finished = true,
  };
  let firstTokens = 0;
  let failures = 0;
  let released = 0;
  const grant = {
    leg: {
      batch: 1,
      remember() {},
      firstToken: () => firstTokens++,
      heard() {},
      failed: () => failures++,
      succeeded() {},
    },
    [Symbol.dispose]: () => {
      released++;
    },
  };
  const head = {
    status: 200,
    headers: [["content-type", input.contentType ?? "text/event-stream"] as [string, string]],
    framing: { kind: "chunked" as const },
    keepAlive: true,
  };
  try {
    const limits = { wholeBytes: 1_048_576, eventBytes: 1_048_576 };
    const expected = { kind, tokens: true, choices: 1, opened() {}, heard() {} };
    const answer = await openAnswer(head, body, expected, limits);
    const options = {
      context,
      deadlines,
      clientStallMs: 60_000,
      heartbeatMs: 60_000,
      hideUsage: input.hideUsage ?? false,
      splitReasoning: input.splitReasoning,
      stored: undefined,
    };
    const response = toResponse(relay({ answer, grant, call, kind, options }));
    const bytes = await response.bytes();
    const outcome = written?.outcome;
    return { status: response.status, bytes, usage: call.usage, firstTokens, failures, released, finished, outcome };
  } catch (error) {
    end(call, "internal");
    throw error;
  } finally {
    deadlines.close();
  }
}
