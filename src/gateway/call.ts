// SPDX-License-Identifier: Apache-2.0
// One request on its way through the gateway, whatever door it came in by, and what is known of it. Its end is written in
// accounting.ts.

import type { Limits } from "../admission/limits.ts";
import type { Tenant, Tenants } from "../admission/tenants.ts";
import type { Clock } from "../base/clock.ts";
import type { Deadlines } from "../base/deadlines.ts";
import { GatewayError } from "../base/errors.ts";
import type { Kind } from "../openai/api.ts";
import type { InferenceRequest } from "../openai/request.ts";
import type { Usage } from "../openai/usage.ts";
import type { Leg } from "../scheduler/scheduler.ts";
import type { SampleWriter } from "../tables/sample_ring.ts";
import type { AccessLog } from "../telemetry/access_log.ts";
import type { LlmLog, RequestTexts } from "../telemetry/llm_log.ts";
import type { Instruments } from "../telemetry/instruments.ts";
import type { RequestSpan, Tracing } from "../telemetry/tracing.ts";
import type { IncomingFields, OwnFields } from "../upstream/request_head.ts";
import type { AskedBlocks } from "../tokens/prompt_tokens.ts";
import type { Carrier } from "./carrier.ts";
import { Cancellation } from "./cancellation.ts";
import type { HeaderReader, Route } from "./routes.ts";
import { TenantAccount } from "./tenant_account.ts";

/** What the calls of a worker share, as long as one snapshot of the configuration is in force. */
export interface CallContext {
  readonly clock: Clock;
  readonly deadlines: Deadlines;
  readonly instruments: Instruments;
  readonly accessLog: AccessLog | undefined;
  /** Where the texts of requests and answers are written; undefined unless that is switched on. */
  readonly llmLog: LlmLog | undefined;
  /** The gateway's name at the metadata center. */
  readonly gateway: string;
  readonly tracing: Tracing | undefined;
  /** Row of the metrics of requests without a known model. */
  readonly unknownModel: number;
  /** Requests under way. */
  readonly active: Set<Call>;
  /** Is told when the last request under way has ended. */
  readonly idle: () => void;
  readonly samples: SampleWriter;
  /** Longest life of a request. */
  readonly requestMs: number;
  readonly tenants: Tenants;
  readonly limits: Limits;
  /** Header fields of the gateway's own. */
  readonly ownFields: OwnFields;
  /** Counts generated tokens of a tenant for its share; undefined where there is but one. */
  readonly serve: ((tenant: number, tokens: number) => void) | undefined;
  /** Whether clients may know which endpoint answered. */
  readonly exposeEndpoint: boolean;
}

/** What a request says of itself before its body is read. */
export interface Incoming {
  /** Undefined for what is no inference. */
  readonly kind: Kind | undefined;
  /** Its path, without a query. */
  readonly path: string;
  readonly fields: IncomingFields;
  readonly headers: HeaderReader;
  /** Who carries it to an engine; undefined for the gateway itself. */
  readonly carrier?: Carrier;
}

/** How an endpoint was decided on. */
export interface Decision {
  /** Ms that the look at who holds the prompt, and that at the loads, took. */
  readonly lookUpMs: number;
  readonly decideMs: number;
  /** Whether an endpoint was known to hold a beginning of the prompt. */
  readonly cacheKnown: boolean;
  /** Name of the load that it became, unique in the gateway. */
  readonly loadName: string;
}

export class Call {
  readonly started: number;
  readonly cancellation: Cancellation;
  readonly span: RequestSpan | undefined;
  #over = false;
  request: InferenceRequest | undefined;
  route: Route | undefined;
  /** Whose it is, and what it takes of that tenant; undefined until that is known. */
  account: TenantAccount | undefined;
  /** HOST:PORT that answered. */
  endpoint = "";
  status = 0;
  promptBytes = 0;
  matchedBytes = 0;
  /** Prompt tokens that its engine told to hold; undefined where that is presumed. */
  knownTokens: number | undefined;
  /** Its tokens as they were made here. */
  asked: AskedBlocks | undefined;
  tries = 0;
  /** Of them, those whose connection was refused. */
  refusals = 0;
  /** When it was last sent to an endpoint. */
  sentAt = 0;
  /** Row of that endpoint, what was predicted for its first token, and the requests on it then. */
  endpointRow = 0;
  predictedMs = NaN;
  batch = NaN;
  /** Ms that its prefill took, once its first token was seen. */
  prefillMs = NaN;
  /** Ms that it waited for an endpoint. */
  queuedMs = 0;
  firstTokenAt: number | undefined;
  /** Tokens of a stream that went on to the client, as far as their events tell. */
  tokens = 0;
  usage: Usage | undefined;
  /** Why its choices ended; known only where it is traced. */
  finishReasons: readonly string[] = [];
  /** How its endpoint was decided on; undefined unless somebody wants to know. */
  decision: Decision | undefined;
  /** What was asked and answered; undefined unless that is written down. */
  readonly texts: RequestTexts | undefined;

  constructor(readonly context: CallContext, readonly incoming: Incoming) {
    context.active.add(this);
    this.started = context.clock.now();
    const asked = Number(incoming.fields.timeoutMs ?? 0) || context.requestMs;
    this.cancellation = new Cancellation(context.deadlines, this.started, Math.min(context.requestMs, asked));
    this.span = incoming.kind && context.tracing?.start(incoming.headers);
    this.texts = incoming.kind && context.llmLog?.textsOf(incoming.kind);
  }

  get kind(): Kind | undefined {
    return this.incoming.kind;
  }

  /** What of the client's head goes to an engine, the same for every attempt. */
  get fields(): string {
    const { fields } = this.incoming.fields;
    return this.span ? this.span.fields(fields) : fields;
  }

  get requestId(): string {
    return this.incoming.fields.requestId;
  }

  /** What the request waits for now; it fails when the client leaves. */
  get waitsFor(): Cancellation["waitsFor"] {
    return this.cancellation.waitsFor;
  }

  /** Throws GatewayError (invalid_request) when the client's own limit or objectives are none. */
  checkTimes(): void {
    const { timeoutMs, ttftSloMs, tpotSloMs } = this.incoming.fields;
    checkMs("x-aigw-timeout-ms", timeoutMs);
    checkMs("x-aigw-ttft-slo-ms", ttftSloMs);
    checkMs("x-aigw-tpot-slo-ms", tpotSloMs);
  }

  /** Finds out who it is from. Throws GatewayError (unauthorized). */
  authenticate(): Tenant {
    const { tenants, serve } = this.context;
    const tenant = tenants.identify(this.incoming.fields);
    this.account = new TenantAccount(tenant, serve);
    return tenant;
  }

  /** It is about to be sent to a leg's endpoint. */
  sending({ endpoint: { row, name } }: Leg): void {
    this.endpointRow = row;
    this.endpoint = name;
    this.tries++;
    this.sentAt = this.context.clock.now();
  }

  /** The head of an answer that is no stream has come. */
  answered(): void {
    const { clock, instruments } = this.context;
    instruments.firstToken(this.modelRow, false, (clock.now() - this.started) / 1_000);
  }

  /** Its first token was seen. */
  firstToken(leg: Pick<Leg, "firstToken" | "batch">): void {
    this.prefillMs = leg.firstToken();
    this.batch = leg.batch;
    this.cancellation.answering();
    this.firstTokenAt = this.context.clock.now();
    this.context.instruments.firstToken(this.modelRow, true, (this.firstTokenAt - this.started) / 1_000);
  }

  /** Row of its model's metrics. */
  get modelRow(): number {
    return this.route?.model ?? this.context.unknownModel;
  }

  /** The request is over; false when it was already. What has to be written of it is written before `leave`. */
  close(): boolean {
    if (this.#over) return false;
    this.#over = true;
    this.cancellation.close();
    return true;
  }

  /** Nothing of the request uses its snapshot any more. */
  leave(): void {
    const { active, idle } = this.context;
    active.delete(this);
    if (active.size === 0) idle();
  }
}

function checkMs(name: string, value: string | undefined): void {
  if (value === undefined || /^[1-9]\d{0,8}$/.test(value)) return;
  throw new GatewayError("invalid_request", `The header ${name} is to be a number of milliseconds, 1 or more`);
}
