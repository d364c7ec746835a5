// SPDX-License-Identifier: Apache-2.0
// Every way that a request can end is one value: the metric label, the log field and the `x-aigw-reason` header.

import { ERROR_CODES, type ErrorCode } from "../base/errors.ts";

export type Outcome =
  | "ok"
  | "engine_rejected" // the engine answered 4xx
  | "engine_failed" // the engine answered 5xx
  | "stream_broken" // the engine's answer broke off after its beginning
  | "stream_failed" // the engine told an error of its own after its beginning
  | "worker_lost" // the thread that served it died
  | ErrorCode;

export const OUTCOMES: readonly Outcome[] = [
  "ok",
  "engine_rejected",
  "engine_failed",
  "stream_broken",
  "stream_failed",
  "worker_lost",
  ...ERROR_CODES,
];

/** Outcome of an answer that an engine gave. */
export function outcomeOfStatus(status: number): Outcome {
  return status < 400 ? "ok" : status < 500 ? "engine_rejected" : "engine_failed";
}

/** Whether it counts as an error: everything but answers, and clients that left. */
export function outcomeIsError(outcome: Outcome): boolean {
  return outcome !== "ok" && outcome !== "client_closed";
}
