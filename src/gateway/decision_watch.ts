// SPDX-License-Identifier: Apache-2.0
// Decisions as an operator sees them: while somebody watches, a few of each second are told with what they were taken by,
// the candidates as they were when the request came, and with what came of it. Nobody else pays for it.

import type { Clock } from "../base/clock.ts";
import type { ScannedPrompt } from "../scheduler/body_scan.ts";
import type { Candidate, DecisionMaker } from "../scheduler/decision.ts";
import type { Grant } from "../scheduler/scheduler.ts";
import type { Call } from "./call.ts";
import type { Route } from "./routes.ts";

/** A candidate as it is shown. */
export interface ShownCandidate {
  readonly endpoint: string;
  readonly score: number;
  readonly in_flight: number;
  readonly cached_bytes: number;
  /** Null under a policy without a queue. */
  readonly has_room: boolean | null;
}

export interface ShownDecision {
  /** ms since the epoch */
  readonly time: number;
  readonly request_id: string;
  readonly model: string;
  readonly tenant: string;
  readonly cluster: string;
  readonly algorithm: string;
  readonly prompt_bytes: number;
  /** Who would have been chosen when it came; null where there was nobody. */
  readonly first_choice: string | null;
  /** Who got it, and after what wait. */
  readonly endpoint: string;
  readonly queued_ms: number;
  readonly decision_ms: number;
  readonly predicted_ttft_ms: number | null;
  readonly cached_bytes: number;
  /** The best of them, best first, and how many there were. */
  readonly candidates: readonly ShownCandidate[];
  readonly candidate_count: number;
}

/** What was seen when a request came. */
export interface Look {
  readonly chosen: number;
  readonly candidates: readonly Candidate[];
}

/** Decisions of one worker that are told in a second. */
const PER_SECOND = 5;
const CANDIDATES = 10;
/** Characters of a name, which clients make up. */
const SHOWN_NAME = 200;

export interface DecisionWatchParts {
  readonly decisions: DecisionMaker;
  readonly clock: Clock;
  nameOf(row: number): string;
  tell(decision: ShownDecision): void;
}

export class DecisionWatch {
  /** Whether somebody watches. */
  open = false;
  #second = -1;
  #told = 0;

  constructor(readonly parts: DecisionWatchParts) {}

  /** What there is to choose from for a request that is about to ask; undefined when it is not one of those told. */
  look({ prompt, route }: { prompt: string | ScannedPrompt; route: Route }): Look | undefined {
    if (!this.open) return undefined;
    const { clock, decisions } = this.parts;
    const second = Math.floor(clock.now() / 1_000);
    if (second !== this.#second) [this.#second, this.#told] = [second, 0];
    if (this.#told++ >= PER_SECOND) return undefined;
    const text = typeof prompt === "string" ? prompt : prompt.text();
    return decisions.explain(text, route.placement, route.model, clock.shared());
  }

  /** The request got its endpoint. */
  decided({ chosen, candidates }: Look, grant: Grant, call: Call): void {
    const { clock, nameOf, tell } = this.parts;
    const { route, request, account } = call;
    const { leg, prompt, queuedMs, lookUpMs, decideMs, predictedMs } = grant;
    tell({
      time: clock.wall(),
      request_id: call.requestId,
      model: (request?.model || (route?.modelName ?? "")).slice(0, SHOWN_NAME),
      tenant: (account?.tenant.name ?? "").slice(0, SHOWN_NAME),
      cluster: route?.rule.cluster ?? "",
      algorithm: route?.placement.policy.name ?? "",
      prompt_bytes: prompt.bytes,
      first_choice: chosen < 0 ? null : nameOf(chosen),
      endpoint: leg.endpoint.name,
      queued_ms: queuedMs,
      decision_ms: lookUpMs + decideMs,
      predicted_ttft_ms: Number.isNaN(predictedMs) ? null : predictedMs,
      cached_bytes: leg.matchedBytes,
      candidates: shownCandidates(candidates, nameOf).slice(0, CANDIDATES),
      candidate_count: candidates.length,
    });
  }
}

/** Candidates as they are shown, best first. */
export function shownCandidates(candidates: readonly Candidate[], nameOf: (row: number) => string): ShownCandidate[] {
  return candidates.toSorted((a, b) => b.score - a.score).map(({ row, requests, cachedBytes, score, room }) => ({
    endpoint: nameOf(row),
    score,
    in_flight: requests,
    cached_bytes: cachedBytes,
    has_room: room ?? null,
  }));
}
