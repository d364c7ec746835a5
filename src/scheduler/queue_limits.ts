// SPDX-License-Identifier: Apache-2.0

import type { Config } from "../config/schema.ts";
import type { QueueLimits } from "./scheduler.ts";

/** Bounds of the queue by the configuration. */
export function queueLimits({ admission: { critical, standard, batch, preempt }, queue }: Config): QueueLimits {
  const classLimits = ({ requests, bytes, max_wait_ms }: Config["admission"]["batch"]) => ({
    requests,
    bytes,
    maxWaitMs: max_wait_ms,
  });
  return {
    classes: [classLimits(critical), classLimits(standard), classLimits(batch)],
    refreshMs: queue.refresh_ms,
    preempt,
  };
}
