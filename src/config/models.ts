// SPDX-License-Identifier: Apache-2.0
// Model mapping and load-balancing rules, under the names that existing configurations use (`cache_radio_weight` with its
// misspelling included).

import { z } from "zod";
import { POLICIES } from "./sections.ts";

export const BACKENDS = ["vllm", "sglang", "tensorrt-llm"] as const;

const headerSchema = z.strictObject({ key: z.string().min(1), value: z.string() });

const subsetSchema = z.strictObject({
  name: z.string().default(""),
  labels: z.record(z.string().min(1), z.string()).default({}).describe("An endpoint must carry all of them"),
  lora: z.string().default("").describe("Adapter whose name is sent to the engine as the model"),
  weight: z.number().min(0).default(1).describe("Share of the rule's requests"),
});

export const ruleSchema = z.strictObject({
  backend: z.enum(BACKENDS),
  cluster: z.string().min(1),
  scene_name: z.string().default(""),
  chain_name: z.string().default(""),
  route_name: z.string().default(""),
  headers: z.array(headerSchema).default([]),
  subset: z.array(subsetSchema).default([]),
});

export const modelMappingSchema = z.record(
  z.string().min(1),
  z.strictObject({ rules: z.array(ruleSchema).min(1) }),
);

const weight = (standard: number) => z.number().min(0).max(1_000).default(standard);

/** One prefill chunk of 2,048 tokens: an engine with less ahead of it is as good as free. */
export const DEFAULT_PREFILL_FLOOR_BYTES = 8_192;

export const loadBalancingSchema = z.strictObject({
  algorithm: z.enum(POLICIES).optional().describe("Overrides the config's algorithm for this model"),
  load_aware_enable: z.boolean().default(true).describe("false: any endpoint at random"),
  cache_aware_enable: z.boolean().default(true).describe("false: the score has no cache term"),
  candidate_percent: z.number().min(0).max(100).optional().describe("Share of the best that one is drawn from"),
  request_load_weight: weight(1),
  prefill_load_weight: weight(3),
  cache_radio_weight: weight(2),
  prefill_load_uncached: z.boolean().default(true)
    .describe("Count only prompt bytes that the endpoint does not hold as its prefill load"),
  prefill_load_floor_bytes: z.int().min(1).max(1_000_000_000).default(DEFAULT_PREFILL_FLOOR_BYTES)
    .describe("Least divisor of the prefill term; 1024 with prefill_load_uncached false is the original formula"),
});

export type RuleConfig = z.infer<typeof ruleSchema>;
export type SubsetConfig = z.infer<typeof subsetSchema>;
export type LoadBalancingConfig = z.infer<typeof loadBalancingSchema>;
