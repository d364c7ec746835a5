// SPDX-License-Identifier: Apache-2.0
// A tenant's limits a minute: reserved before a request is placed, settled with what it really used. The windows are in
// the shared memory, so all workers draw from the same.

import type { AttachedKernel } from "../../wasm/kernel.ts";
import { GatewayError } from "../base/errors.ts";
import { type LostRequest, RequestPhase } from "../tables/request_table.ts";
import type { Tenant } from "./tenants.ts";

/** Order of a tenant's windows in the shared memory. */
export const WINDOWS = ["requests", "input_tokens", "output_tokens"] as const;
const NAMES = ["requests", "input tokens", "output tokens"];
/** Names of the windows in `x-ratelimit-…` fields. */
const FIELDS = ["requests", "tokens", "output-tokens"];

/** What a request holds of its tenant's limits, until it is settled. */
export interface Reservation {
  /** What was taken by estimate; 0 where there is no limit. */
  readonly tokens: { readonly inputTokens: number; readonly outputTokens: number };
  /** Says what was really used; the first call counts. */
  settle(inputTokens: number | undefined, outputTokens: number | undefined): void;
  /** Gives everything back: the request did not get to an engine. */
  refund(): void;
}

const NOTHING: Reservation = { tokens: { inputTokens: 0, outputTokens: 0 }, settle() {}, refund() {} };

/**
 * Settles what a request took whose worker died, and cannot: the engine has computed its prompt if it was sent, and nobody
 * knows of what else.
 */
export function settleLost(kernel: AttachedKernel, lost: LostRequest, now: number): void {
  const sent = lost.phase >= RequestPhase.prefilling;
  const back = sent ? [0, 0, lost.outputTokens] : [1, lost.inputTokens, lost.outputTokens];
  if (lost.inputTokens + lost.outputTokens === 0) return; // no limit of its tenant
  back.forEach((amount, window) => {
    if (amount > 0) kernel.exports.limitSettle(lost.tenant, window, -amount, now);
  });
}

export class Limits {
  /** Gateways that share the limits when nobody tells what the others used: each takes its part. */
  readonly #share: () => number;

  constructor(readonly kernel: AttachedKernel, readonly now: () => number, share: () => number = () => 1) {
    this.#share = share;
  }

  /** Limits of a tenant by window; undefined for none. */
  limitsOf({ limits }: Tenant): (number | undefined)[] {
    const all = WINDOWS.map((window) => limits[`${window}_per_minute`]);
    const share = this.#share();
    return share === 1 ? all : all.map((limit) => limit === undefined ? undefined : Math.max(1, limit * share));
  }

  limited({ limits }: Tenant): boolean {
    return WINDOWS.some((window) => limits[`${window}_per_minute`] !== undefined);
  }

  /** Throws GatewayError (rate_limited) with the time when it may be tried again. */
  reserve(tenant: Tenant, estimate: () => { inputTokens: number; outputTokens: number }): Reservation {
    if (!this.limited(tenant)) return NOTHING;
    const { inputTokens, outputTokens } = estimate();
    const limits = this.limitsOf(tenant);
    const amounts = [1, Math.ceil(inputTokens), Math.ceil(outputTokens)];
    const now = this.now();
    for (let window = 0; window < WINDOWS.length; window++) {
      const limit = limits[window];
      if (limit === undefined) continue;
      const wait = this.kernel.exports.limitReserve(tenant.row, window, amounts[window], limit, now);
      if (wait === 0) continue;
      for (let taken = 0; taken < window; taken++) {
        if (limits[taken] !== undefined) this.#settle(tenant, taken, -amounts[taken]);
      }
      throw wait < 0
        ? new GatewayError(
          "rate_limited",
          `The request alone takes ${amounts[window]} ${NAMES[window]}, the limit is ${limit} a minute`,
        ).after(60_000)
        : new GatewayError("rate_limited", `The limit of ${limit} ${NAMES[window]} a minute is used up`).after(wait);
    }
    return this.#reservation(tenant, limits, amounts);
  }

  #reservation(tenant: Tenant, limits: readonly (number | undefined)[], amounts: readonly number[]): Reservation {
    let open = true;
    const settle = (...used: number[]): void => {
      if (!open) return;
      open = false;
      used.forEach((amount, window) => {
        if (limits[window] !== undefined && amount !== amounts[window]) {
          this.#settle(tenant, window, amount - amounts[window]);
        }
      });
    };
    const [, inputTokens, outputTokens] = amounts;
    return {
      tokens: { inputTokens, outputTokens },
      settle: (input, output) => settle(1, input ?? amounts[1], output ?? amounts[2]),
      refund: () => settle(0, 0, 0),
    };
  }

  #settle({ row }: Tenant, window: number, amount: number): void {
    this.kernel.exports.limitSettle(row, window, amount, this.now());
  }

  // Until nothing of it is used any more: what was used in the minute before is gone with this one, what was used in this
  // one a minute later.
  #resetMs({ row }: Tenant, window: number, now: number): number {
    const restMs = 60_000 - now % 60_000;
    return this.kernel.exports.limitUsed(row, window, now + restMs) > 0 ? restMs + 60_000 : restMs;
  }

  /** `x-ratelimit-…` fields of an answer, as OpenAI names them. */
  addHeaders(tenant: Tenant, headers: { append(name: string, value: string): void }): void {
    if (!this.limited(tenant)) return;
    const now = this.now();
    this.limitsOf(tenant).forEach((limit, window) => {
      if (limit === undefined) return;
      const used = this.kernel.exports.limitUsed(tenant.row, window, now);
      headers.append(`x-ratelimit-limit-${FIELDS[window]}`, String(Math.floor(limit)));
      headers.append(`x-ratelimit-remaining-${FIELDS[window]}`, String(Math.max(0, Math.floor(limit - used))));
      headers.append(
        `x-ratelimit-reset-${FIELDS[window]}`,
        duration(used > 0 ? this.#resetMs(tenant, window, now) : 0),
      );
    });
  }
}

/** As OpenAI writes it: `12ms`, `7s`, `1m3s`. */
function duration(ms: number): string {
  if (ms < 1_000) return `${Math.ceil(ms)}ms`;
  const seconds = Math.ceil(ms / 1_000);
  return seconds < 60 ? `${seconds}s` : `${Math.floor(seconds / 60)}m${seconds % 60}s`;
}
