// SPDX-License-Identifier: Apache-2.0
// The numbers of late binding and prediction, from the config into the header of the shared memory, where the kernel reads
// them.

import type { AttachedKernel } from "../../wasm/kernel.ts";
import type { QueueConfig } from "../config/sections.ts";

/** By what fairness is for: how waits shorten a request, and after what multiple of the backlog's time one is overdue. */
const FAIRNESS = {
  mean: { ageing_per_s: 0, overdue_factor: 1_000 },
  balanced: { ageing_per_s: 0.05, overdue_factor: 3 },
  tail: { ageing_per_s: 0.2, overdue_factor: 0.9 },
} as const;

/** Predicts prefill times by moving averages instead of least squares. Once, before any worker starts. */
export function predictByAverages(kernel: AttachedKernel): void {
  new Uint32Array(kernel.buffer)[kernel.exports.HEADER_AVERAGES] = 1;
}

/** Writes them once, before any worker starts. */
export function writeQueueParameters(kernel: AttachedKernel, queue: QueueConfig, bytesPerToken: number): void {
  const k = kernel.exports;
  const floats = new Float32Array(kernel.buffer);
  floats[k.HEADER_BYTES_PER_TOKEN] = bytesPerToken;
  floats[k.HEADER_ROOM] = queue.room_tokens * bytesPerToken;
  floats[k.HEADER_PACK] = queue.pack_tokens * bytesPerToken;
  floats[k.HEADER_ROOM_SHARED] = Math.max(queue.room_tokens, queue.shared_room_tokens) * bytesPerToken;
  floats[k.HEADER_ROOM_OWN] = queue.shared_own_tokens * bytesPerToken;
  floats[k.HEADER_SLACK] = queue.slack_ms;
  floats[k.HEADER_CHARGE] = queue.charge;
  floats[k.HEADER_MAX_CHARGE] = queue.max_charge;
  floats[k.HEADER_STALL] = queue.stall_charge;
  const fairness = FAIRNESS[queue.fairness];
  floats[k.HEADER_AGEING] = (queue.ageing_per_s ?? fairness.ageing_per_s) / 1_000;
  floats[k.HEADER_OVERDUE] = queue.overdue_factor ?? fairness.overdue_factor;
  floats[k.HEADER_OVERDUE_BASE] = queue.overdue_base_ms;
  floats[k.HEADER_RUN] = queue.request_ms;
  floats[k.HEADER_BALANCE] = queue.balance_ms;
  floats[k.HEADER_ADAPTER] = queue.adapter_ms;
  floats[k.HEADER_BURST] = queue.burst_tokens * bytesPerToken;
  floats[k.HEADER_TIE] = queue.tie_ms;
  new Uint32Array(kernel.buffer)[k.HEADER_MIN_WORK] = Math.round(queue.least_tokens * bytesPerToken);
}
