// SPDX-License-Identifier: Apache-2.0
// How an attempt at an endpoint can fail, and which failures another endpoint may make good.

export type UpstreamFailure =
  | "connect_failed" // refused, unreachable, unknown host
  | "connect_timeout"
  | "lost_before_answer" // the connection ended before any byte of the answer
  | "header_timeout"
  | "bad_response" // not HTTP, or a head beyond its limit
  | "lost_in_answer" // the connection ended in the middle of the answer
  | "idle_timeout" // the engine fell silent in the middle of its answer
  | "aborted" // the client left
  | "draining"; // the gateway shuts down

export class UpstreamError extends Error {
  override readonly name = "UpstreamError";
  constructor(readonly failure: UpstreamFailure, message: string, cause?: unknown) {
    super(message, { cause });
  }

  /** Whether no byte of an answer was seen, so that another endpoint may be asked. */
  get retriable(): boolean {
    return this.failure === "connect_failed" || this.failure === "connect_timeout" ||
      this.failure === "lost_before_answer";
  }
}
