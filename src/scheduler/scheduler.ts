// SPDX-License-Identifier: Apache-2.0
// What the gateway asks of its scheduler: a grant, which is one endpoint (or one for each leg of the work) with the
// request's load counted on it. A grant is disposed of exactly once, at the true end of the request; whoever holds it last
// owns that end.

import type { ScannedPrompt } from "./body_scan.ts";
import type { HashedPrompt } from "./cache_knowledge.ts";
import type { Explanation, FlowPriority } from "./decision.ts";
import type { AwaitedBlocks } from "./known_blocks.ts";
import type { EndpointRef } from "../tables/endpoint_directory.ts";
import type { Placement } from "./placement.ts";

/** What waits, and can be made to fail: when the client leaves, or the request's time is up. */
export interface Waiting {
  fail(error: Error): void;
}

/** A request that asks for an endpoint. */
export interface Ask {
  readonly placement: Placement;
  readonly prompt: string | ScannedPrompt;
  /** Its tokens; undefined where they are of no use. */
  readonly blocks?: AwaitedBlocks;
  /** Model row. */
  readonly model: number;
  readonly flow: FlowPriority & {
    /** Most requests of the tenant under way, and waiting; undefined for no such limit. */
    readonly concurrency?: number;
    readonly queued?: number;
  };
  /** Tokens taken of its tenant's limits for it by estimate. */
  readonly reserved: { readonly inputTokens: number; readonly outputTokens: number };
  /** Bounds of the queue that it may wait in. */
  readonly queue: QueueLimits;
  /** Objectives in ms, 0 for none: for policy slo. */
  readonly objectives: { ttftMs: number; tpotMs: number };
  /** Gives the request up for one of higher priority, as long as its answer has not begun. */
  readonly preempt: () => void;
  /** Its first token will not be seen: the answer is not streamed. */
  readonly hidden: boolean;
  /** The one endpoint row that will do, as it has the state that the request continues. */
  readonly onlyEndpoint?: number;
  /** HOST:PORTs of the endpoints that will do; undefined for all. It is sent at once then: what waits is for all. */
  readonly among?: readonly string[];
}

/** Is told what to fail when the client leaves, or the request's time is up, before there is an endpoint. */
export type OnCancel = (waiting: Waiting) => void;

/** Bounds of what waits in one class of priority of a cluster. */
export interface ClassLimits {
  readonly requests: number;
  readonly bytes: number;
  readonly maxWaitMs: number;
}

export interface QueueLimits {
  /** Critical, standard, batch. */
  readonly classes: readonly [ClassLimits, ClassLimits, ClassLimits];
  readonly refreshMs: number;
  /** Whether critical requests take the place of batch requests before their first token. */
  readonly preempt: boolean;
}

/** Gives out grants: here at once when there is room and nobody waits, or from a queue, wherever that is. */
export interface Scheduler {
  /** Throws GatewayError: no_endpoint, overloaded, queue_full, queue_timeout, slo_unreachable; and what `onCancel` fails with. */
  acquire(ask: Ask, onCancel: OnCancel): Promise<Grant>;
}

/** One endpoint's part of a request. */
export interface Leg {
  /** All of it; or, where prefill and decoding are on different engines, one of the two. */
  readonly role: "whole" | "prefill" | "decode";
  readonly endpoint: EndpointRef;
  /** Leading prompt bytes that the endpoint was presumed to hold when it was chosen. */
  readonly matchedBytes: number;
  /** Whether its engine told that it holds them. */
  readonly matchedExactly: boolean;
  /** Requests on its endpoint, this one included. */
  readonly batch: number;
  /** The request is on its way there. */
  sent(): void;
  /** The first token was seen, or is presumed: the prompt's load comes off. Returns the ms of the prefill the first time, then -1. */
  firstToken(): number;
  /** Something more of the answer came. */
  heard(): void;
  /** The endpoint holds the prompt from now on: it answered 200, or is about to compute it. */
  remember(): void;
  /** The endpoint failed at this request. */
  failed(): void;
  /** The endpoint's answer came to a good end. */
  succeeded(): void;
}

/** Granted endpoints. `using grant = …` releases their load when the scope ends, unless `keep` moved it on. */
export interface Grant extends Disposable {
  readonly legs: readonly Leg[];
  /** The leg whose engine answers the client. */
  readonly leg: Leg;
  readonly prompt: HashedPrompt;
  /** Ms that it waited. */
  readonly queuedMs: number;
  /** Ms that the look at who holds its prompt, and that at the loads, took. */
  readonly lookUpMs: number;
  readonly decideMs: number;
  /** Name of its load, unique in the gateway. */
  readonly loadName: string;
  /** Predicted ms from now to the first token. */
  readonly predictedMs: number;
  /** Gives the endpoint up for another that was not tried yet; false when there is none. */
  tryAnother(): boolean;
  /** A grant of the same request at another endpoint, with its load counted there too; undefined when there is none. */
  twin(): Grant | undefined;
  /** The endpoints that would be next, the best first, at most `count`. */
  others(count: number): readonly EndpointRef[];
  /** Another endpoint, HOST:PORT, has the request: the load moves there. False when it stays where it is. */
  servedBy(name: string): boolean;
  /** Hands the load over to a new grant, which outlives the scope of this one. */
  keep(): Grant;
}

export type { Explanation };
