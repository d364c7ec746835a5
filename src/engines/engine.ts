// SPDX-License-Identifier: Apache-2.0
// What the gateway knows of a kind of engine: where it is asked for its health, what its metrics mean, and what it is sent
// for a request. `prepare` comes before admission, so that what an engine cannot do is refused at once; `encode` comes
// after the grant, so that a body can name its endpoint.

import type { RuleConfig } from "../config/models.ts";
import type { InferenceRequest } from "../openai/request.ts";
import type { Leg } from "../scheduler/scheduler.ts";
import type { UpstreamError } from "../upstream/errors.ts";
import type { ResponseHead } from "../upstream/response_head.ts";
import type { EngineSignals } from "./signals.ts";

/** The body of an answer, wherever it comes from. A connection is one. */
export interface AnswerBody {
  /**
   * The next piece, null at the end; `silent` says that what came last does not count against the engine's silence.
   * Throws UpstreamError, afterwards it is closed.
   */
  readBody(silent?: boolean): Promise<Uint8Array<ArrayBuffer> | null>;
  /** Ends it; what waits for it fails with `error`. */
  fail(error: UpstreamError): void;
  close(): void;
  /** It was read to its end. */
  finish(): void;
}

/** An answer whose body has not been read. */
export interface Opened {
  readonly head: ResponseHead;
  readonly body: AnswerBody;
  /** HOST:PORT that answered, where that may be another one than was asked. */
  readonly servedBy?: string;
}

/** The request that an answer is for, as far as who speaks to an engine has to know it. */
export interface Requester {
  readonly requestId: string;
  /** Is told what the request waits for, which fails when its client leaves. */
  readonly waitsFor: (waiting: { fail(error: UpstreamError): void }) => void;
}

/** Speaks an engine's own protocol. */
export interface Transcoder {
  /** Sends the request over that protocol; without it, it goes over HTTP. Throws UpstreamError. */
  send?(endpoint: string, requester: Requester): Promise<Opened>;
  /** Turns an engine's HTTP answer into OpenAI's. Throws UpstreamError. */
  wrap?(opened: Opened): Opened;
}

/** What goes to an engine. */
export interface OutgoingRequest {
  readonly method: string;
  /** Path and query, behind the cluster's base path. */
  readonly target: string;
  /** End-to-end header fields as text. */
  readonly fields: string;
  /** What of the body stands before `body`, in ASCII. */
  readonly opening?: string;
  readonly body: Uint8Array<ArrayBuffer>;
  /** For engines of another protocol. */
  readonly transcoder?: Transcoder;
}

/** A client's request as an engine has to know it. */
export interface EngineCall {
  readonly request: InferenceRequest;
  /** The body as it came. */
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** Path and query. */
  readonly target: string;
  /** Name to send as the model's; empty for the client's. */
  readonly targetModel: string;
  /** Whether the engine is to tell the usage of every stream. */
  readonly usageAccounting: boolean;
}

/** A request that an engine can do, up to what depends on the endpoint. */
export interface PreparedRequest {
  /** What is sent to a leg's endpoint; `fields` are the client's end-to-end header fields. */
  encode(leg: Leg, fields: string): OutgoingRequest;
}

/** A page of an endpoint that is asked again and again. */
export interface ProbePage {
  readonly port: number;
  readonly path: string;
}

/** What an endpoint is asked. */
export interface ProbePages {
  /** Undefined when there is none: that the address accepts a connection is enough. */
  readonly health: ProbePage | undefined;
  /** Prometheus text; undefined for none. */
  readonly metrics: ProbePage | undefined;
  /** OpenAI's list of models; undefined for none. */
  readonly models: ProbePage | undefined;
  /** Whether it has been paused: `{"is_paused": true}`. */
  readonly paused?: ProbePage;
}

/** Where probes go by the config. */
export interface ProbeSettings {
  readonly port: number;
  readonly healthPort: number | undefined;
  readonly metricsPort: number | undefined;
  readonly healthPath: string;
  readonly metricsPath: string;
}

/** A kind of engine. */
export interface Engine {
  probes(settings: ProbeSettings, rule: RuleConfig | undefined): ProbePages;
  /** Reads the metrics of an engine of this kind, or of one rank of it; what it does not tell is undefined. */
  signals(metricsText: string, rank?: number): EngineSignals;
  /** Throws GatewayError (invalid_request) for what such an engine cannot do. */
  prepare(call: EngineCall, rule: RuleConfig): PreparedRequest;
  /** Whether the usage of a stream is always told in a chunk of its own. */
  readonly alwaysTellsUsage: boolean;
  /** Whether what it is sent is made of the parsed body. */
  readonly rewrites: boolean;
}
