// SPDX-License-Identifier: Apache-2.0
// SGLang's OpenAI server.

import { openAiEngine } from "./openai_engine.ts";

export const sglang = openAiEngine({
  waiting: "sglang:num_queue_reqs",
  running: "sglang:num_running_reqs",
  kvUsage: "sglang:token_usage",
  promptTokens: "sglang:prompt_tokens_total",
  cacheInfo: { metric: "sglang:cache_config_info", blockSize: "page_size", blocks: "num_pages" },
});
