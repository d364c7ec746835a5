// SPDX-License-Identifier: Apache-2.0
// What a request takes of its tenant: tokens of its share as they come, and of its limits what was reserved, until it ends
// and the true figures are known.

import type { Reservation } from "../admission/limits.ts";
import type { Tenant } from "../admission/tenants.ts";
import type { Usage } from "../openai/usage.ts";
import type { Outcome } from "../telemetry/outcome.ts";

/** A tenant is charged for the tokens of a stream this many at a time. */
const CHARGED_TOKENS = 16;
/** Ends of the client's making: the engine has worked for it. */
const LEFT: ReadonlySet<Outcome> = new Set<Outcome>(["client_closed", "deadline_exceeded"]);

export class TenantAccount {
  #tokens = 0;
  #charged = 0;
  #reservation: Reservation | undefined;

  /** @param serve Counts generated tokens of a tenant for its share; undefined where there is but one. */
  constructor(readonly tenant: Tenant, readonly serve: ((tenant: number, tokens: number) => void) | undefined) {}

  reserved(reservation: Reservation): void {
    this.#reservation = reservation;
  }

  /** So many tokens have gone on to the client. */
  generated(tokens: number): void {
    this.#tokens = tokens;
    if (this.serve !== undefined && tokens - this.#charged >= CHARGED_TOKENS) this.#charge(tokens);
  }

  #charge(tokens: number): void {
    if (tokens <= this.#charged) return;
    this.serve?.(this.tenant.row, tokens - this.#charged);
    this.#charged = tokens;
  }

  /**
   * The request has ended. What an engine said it used counts; of an answer that broke off, what came; of one that its
   * client did not wait for, the prompt; of one that no engine gave, nothing.
   */
  settle(outcome: Outcome, usage: Usage | undefined, sent: boolean): void {
    this.#charge(usage?.completionTokens ?? this.#tokens);
    const reservation = this.#reservation;
    if (!reservation) return;
    if (usage) reservation.settle(usage.promptTokens, usage.completionTokens);
    else if (outcome === "ok") reservation.settle(undefined, undefined);
    else if (sent && LEFT.has(outcome)) reservation.settle(undefined, 0);
    else reservation.refund();
  }
}
