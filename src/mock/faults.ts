// SPDX-License-Identifier: Apache-2.0
// Faults on demand: for one request by the header `x-mock-fault`, for the engine by `--fault` or POST /faults.

import { z } from "zod";

export const faultSchema = z.strictObject({
  /**
   * status: answer with `status`; delay: wait `delay_ms` before the answer; stall: fall silent after `after_tokens`;
   * cut: break the connection after `after_tokens`; error_chunk: an error as the event after `after_tokens`.
   */
  kind: z.enum(["status", "delay", "stall", "cut", "error_chunk"]),
  status: z.int().min(400).max(599).default(503),
  delay_ms: z.int().min(0).max(3_600_000).default(1_000),
  after_tokens: z.int().min(0).default(1),
  /** Only the first N requests. */
  first: z.int().min(1).optional(),
  /** Only this share of the requests. */
  share: z.number().min(0).max(1).default(1),
});

export type Fault = z.infer<typeof faultSchema>;

/** Decides which requests of an engine a fault meets. */
export class FaultPlan {
  #fault: Fault | undefined;
  #seen = 0;

  constructor(fault?: Fault, readonly random: () => number = Math.random) {
    this.#fault = fault;
  }

  set(fault: Fault | undefined): void {
    this.#fault = fault;
    this.#seen = 0;
  }

  /** The fault of the next request, if any. Throws ZodError when the header holds none. */
  next(header: string | null): Fault | undefined {
    if (header !== null) return faultSchema.parse(JSON.parse(header));
    const fault = this.#fault;
    if (!fault || (fault.first !== undefined && this.#seen >= fault.first)) return undefined;
    this.#seen++;
    return this.random() < fault.share ? fault : undefined;
  }
}
