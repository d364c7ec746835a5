// SPDX-License-Identifier: Apache-2.0
// vLLM's OpenAI server (vllm/v1/metrics/loggers.py has the names).

import { openAiEngine } from "./openai_engine.ts";
import { series } from "./signals.ts";

export const vllm = openAiEngine({
  waiting: "vllm:num_requests_waiting",
  running: "vllm:num_requests_running",
  kvUsage: "vllm:kv_cache_usage_perc",
  promptTokens: "vllm:prompt_tokens_total",
  generatedTokens: "vllm:generation_tokens_total",
  cacheInfo: {
    metric: "vllm:cache_config_info",
    tokens: "kv_cache_size_tokens",
    blockSize: "block_size",
    blocks: "num_gpu_blocks",
  },
  adapters: "vllm:lora_requests_info",
  awake: series("vllm:engine_sleep_state", "sleep_state", "awake"),
  prefix: { queried: "vllm:prefix_cache_queries_total", hit: "vllm:prefix_cache_hits_total" },
}, { paused: "/is_paused" });
