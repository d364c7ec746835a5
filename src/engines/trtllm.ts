// SPDX-License-Identifier: Apache-2.0
// TensorRT-LLM's own server (trtllm-serve).

import { openAiEngine } from "./openai_engine.ts";

export const trtllm = openAiEngine({
  waiting: "trtllm_num_requests_waiting",
  running: "trtllm_num_requests_running",
  kvUsage: "trtllm_kv_cache_utilization",
  cacheValues: { blockSize: "trtllm_kv_cache_tokens_per_block", blocks: "trtllm_kv_cache_max_blocks" },
});
