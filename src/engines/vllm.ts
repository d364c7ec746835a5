// SPDX-License-Identifier: Apache-2.0
// vLLM's OpenAI server (vllm/v1/metrics/loggers.py has the names).

import { openAiEngine } from "./openai_engine.ts";

export const vllm = openAiEngine({
  waiting: "vllm:num_requests_waiting",
  running: "vllm:num_requests_running",
  kvUsage: "vllm:kv_cache_usage_perc",
  promptTokens: "vllm:prompt_tokens_total",
  cacheInfo: { metric: "vllm:cache_config_info", blockSize: "block_size", blocks: "num_gpu_blocks" },
  adapters: "vllm:lora_requests_info",
});
