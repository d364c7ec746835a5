// SPDX-License-Identifier: Apache-2.0
// Model mapping and load-balancing rules, under the names that existing configurations use (`cache_radio_weight` with its
// misspelling included).

import { z } from "zod";
import { POLICIES } from "./sections.ts";

export const BACKENDS = ["vllm", "sglang", "tensorrt-llm", "triton", "llamacpp", "transformers", "openai"] as const;

const headerSchema = z.strictObject({
  key: z.string().regex(/^(:path|:method|:authority|[!#$%&'*+.^_`|~0-9A-Za-z-]+)$/, {
    error: "expected a header name, or one of :path, :method, :authority",
  }),
  value: z.string(),
});

const subsetSchema = z.strictObject({
  name: z.string().default("").describe("For readers of the configuration"),
  labels: z.record(z.string().min(1), z.string()).default({}).describe("An endpoint must carry all of them"),
  lora: z.string().default("").describe("Adapter whose name is sent to the engine as the model"),
  weight: z.number().min(0).default(1).describe("Share of the rule's requests"),
});

const tritonSchema = z.strictObject({
  protocol: z.enum(["grpc", "http"]).default("grpc").describe("KServe v2 gRPC, or the generate extension over HTTP"),
  model: z.string().min(1).default("ensemble").describe("The model's name in Triton"),
  model_backend: z.enum(["tensorrt-llm", "vllm"]).default("tensorrt-llm")
    .describe("What runs the model in Triton: they take different inputs"),
  token_counts: z.boolean().optional().describe(
    "Ask for num_input_tokens and num_output_tokens, which older models do not have; with vllm they are asked for. Usage is estimated without",
  ),
  chat_template: z.string().min(1).optional().describe("Jinja chat template; ChatML without one"),
  chat_template_file: z.string().min(1).optional().describe("A file with it, relative to this file"),
  bos_token: z.string().default(""),
  eos_token: z.string().default(""),
  stop: z.array(z.string().min(1)).max(16).default([]).describe("Stop words of every request, as <|im_end|>"),
  max_tokens: z.int().min(1).max(10_000_000).default(1_024).describe("For requests that set no maximum"),
}).refine(({ chat_template, chat_template_file }) => chat_template === undefined || chat_template_file === undefined, {
  error: "chat_template or chat_template_file, not both",
});
export type TritonConfig = z.infer<typeof tritonSchema>;

export const splitReasoningSchema = z.union([
  z.boolean(),
  z.strictObject({
    opened_by_template: z.boolean().default(true).describe("The chat template ends with <think>: answers begin inside"),
  }),
]);

export const ruleSchema = z.strictObject({
  backend: z.enum(BACKENDS),
  cluster: z.string().min(1),
  scene_name: z.string().default("").describe("Accepted for existing configurations, without effect"),
  chain_name: z.string().default("").describe("Accepted for existing configurations, without effect"),
  route_name: z.string().default(""),
  target_model: z.string().default("").describe("Name sent to the engine instead of the client's"),
  triton: tritonSchema.optional().describe("How a Triton backend is spoken to"),
  split_reasoning: splitReasoningSchema.optional().describe("Overrides the config's split_reasoning"),
  headers: z.array(headerSchema, { error: "expected a list like [{key: x-tier, value: gold}]" }).default([]),
  subset: z.array(subsetSchema).default([]),
});

export const modelMappingSchema = z.record(
  z.string().min(1),
  z.strictObject({ rules: z.array(ruleSchema).min(1) }),
);

const weight = (standard: number) => z.number().min(0).max(1_000).default(standard);

export const DEFAULT_PREFILL_FLOOR_BYTES = 1_024;

export const loadBalancingSchema = z.strictObject({
  algorithm: z.enum(POLICIES).optional().describe("Overrides the config's algorithm for this model"),
  load_aware_enable: z.boolean().default(true).describe("false: any endpoint at random"),
  cache_aware_enable: z.boolean().default(true).describe("false: the score has no cache term"),
  candidate_percent: z.number().min(0).max(100).optional().describe("Share of the best that one is drawn from"),
  request_load_weight: weight(1),
  prefill_load_weight: weight(3),
  cache_radio_weight: weight(2),
  lora_weight: weight(1).describe("Advantage of an endpoint that holds the request's LoRA adapter"),
  prefill_load_uncached: z.boolean().default(false)
    .describe("inference_lb: count only prompt bytes that the endpoint does not hold as its prefill load"),
  ttft_slo_ms: z.number().min(0).max(86_400_000).optional()
    .describe("Objective for the time to the first token; the header x-aigw-ttft-slo-ms wins"),
  tpot_slo_ms: z.number().min(0).max(86_400_000).optional()
    .describe("Objective for the time between tokens; the header x-aigw-tpot-slo-ms wins"),
  prefill_load_floor_bytes: z.int().min(1).max(1_000_000_000).default(DEFAULT_PREFILL_FLOOR_BYTES)
    .describe("inference_lb: least divisor of the prefill term"),
});

export type RuleConfig = z.infer<typeof ruleSchema>;
export type SubsetConfig = z.infer<typeof subsetSchema>;
export type LoadBalancingConfig = z.infer<typeof loadBalancingSchema>;
