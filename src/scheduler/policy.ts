// SPDX-License-Identifier: Apache-2.0
// A model's load-balancing policy in the kernel's terms.

import type { Config } from "../config/schema.ts";
import { DEFAULT_PREFILL_FLOOR_BYTES } from "../config/models.ts";
import { DEFAULT_CANDIDATE_PERCENT } from "../config/load.ts";
import type { PolicyName } from "../config/sections.ts";

/** Order of the kernel's policy numbers. */
const KERNEL_POLICIES: PolicyName[] = [
  "inference_lb",
  "random",
  "round_robin",
  "least_request",
  "expected_ttft",
  "slo",
  "late_binding",
];
/** Policies that care which endpoint holds a prompt. */
const CACHE_AWARE: ReadonlySet<PolicyName> = new Set<PolicyName>([
  "inference_lb",
  "expected_ttft",
  "slo",
  "late_binding",
]);

const LOAD_BLIND: ReadonlySet<PolicyName> = new Set<PolicyName>(["random", "round_robin"]);

export interface Policy {
  readonly name: PolicyName;
  /** The kernel's number; random when load awareness is off. */
  readonly kernelPolicy: number;
  /** Whether loads have a part in the decision. */
  readonly loadAware: boolean;
  /** Whether prompts are hashed, looked up and remembered. */
  readonly cacheAware: boolean;
  /** Share of the best candidates that one is drawn from. */
  readonly candidatePercent: number;
  readonly cacheWeight: number;
  readonly requestWeight: number;
  readonly prefillWeight: number;
  /** Advantage of an endpoint that holds the request's adapter. */
  readonly adapterWeight: number;
  /** Whether the score counts only the prompt bytes that an endpoint does not hold yet. */
  readonly uncachedOnly: boolean;
  /** Whether a request may wait in the gateway for an endpoint with room. */
  readonly queued: boolean;
  /** Objectives in ms, 0 for none. */
  readonly ttftSloMs: number;
  readonly tpotSloMs: number;
  /** Prompt bytes that weigh fully even when no endpoint has as many. */
  readonly prefillFloorBytes: number;
}

/** The policy of a model: its lb_mapping_rule, else the defaults. */
export function policyOf(config: Config, model: string): Policy {
  const rule = config.lb_mapping_rule[model];
  const name = rule?.algorithm ?? config.algorithm;
  const loadAware = rule?.load_aware_enable ?? true;
  return {
    name,
    kernelPolicy: KERNEL_POLICIES.indexOf(loadAware ? name : "random"),
    loadAware: loadAware && !LOAD_BLIND.has(name),
    cacheAware: CACHE_AWARE.has(name) && loadAware && (rule?.cache_aware_enable ?? true),
    candidatePercent: rule?.candidate_percent ?? DEFAULT_CANDIDATE_PERCENT,
    cacheWeight: rule?.cache_radio_weight ?? 2,
    requestWeight: rule?.request_load_weight ?? 1,
    prefillWeight: rule?.prefill_load_weight ?? 3,
    adapterWeight: rule?.lora_weight ?? 1,
    uncachedOnly: name !== "inference_lb" || (rule?.prefill_load_uncached ?? false),
    queued: name === "late_binding" && loadAware,
    ttftSloMs: rule?.ttft_slo_ms ?? 0,
    tpotSloMs: rule?.tpot_slo_ms ?? 0,
    prefillFloorBytes: rule?.prefill_load_floor_bytes ?? DEFAULT_PREFILL_FLOOR_BYTES,
  };
}
