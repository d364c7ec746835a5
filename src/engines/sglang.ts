// SPDX-License-Identifier: Apache-2.0
// SGLang's OpenAI server. What its KV cache holds is a gauge of its own since 0.5, before it was in labels.

import { openAiEngine } from "./openai_engine.ts";

export const sglang = openAiEngine({
  waiting: "sglang:num_queue_reqs",
  running: "sglang:num_running_reqs",
  kvUsage: "sglang:token_usage",
  promptTokens: "sglang:prompt_tokens_total",
  generatedTokens: "sglang:generation_tokens_total",
  cacheInfo: { metric: "sglang:cache_config_info", blockSize: "page_size", blocks: "num_pages" },
  cacheValues: { tokens: "sglang:max_total_num_tokens", blockSize: "sglang:page_size", blocks: "sglang:num_pages" },
});
