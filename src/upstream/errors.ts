// SPDX-License-Identifier: Apache-2.0
// How an attempt at an endpoint can fail.

export type UpstreamFailure =
  | "connect_failed" // refused, unreachable, unknown host
  | "connect_timeout"
  | "lost_before_answer" // the connection ended before any byte of the answer
  | "header_timeout"
  | "first_byte_timeout" // a head, but nothing of the body
  | "bad_response" // not HTTP, or a head beyond its limit
  | "lost_in_answer" // the connection ended in the middle of the answer
  | "silent" // nothing came from the engine for much longer than predicted
  | "idle_timeout" // the engine fell silent in the middle of its answer
  | "aborted" // the client left
  | "deadline" // the request's own time is up
  | "draining" // the gateway shuts down
  | "preempted"; // it made room for a request of higher priority

/** Failures that say nothing about the endpoint, and that no other endpoint would make good. */
const OURS: ReadonlySet<UpstreamFailure> = new Set<UpstreamFailure>(["aborted", "deadline", "draining", "preempted"]);

export class UpstreamError extends Error {
  override readonly name = "UpstreamError";
  /** The engine cannot have read the whole request. */
  unsent = false;
  /** The connection had carried another request before: the engine may have closed it in the meantime. */
  reused = false;
  constructor(readonly failure: UpstreamFailure, message: string, cause?: unknown) {
    super(message, { cause });
  }

  /** Whether it is the endpoint that failed. */
  get endpointFailed(): boolean {
    return !OURS.has(this.failure);
  }
}
