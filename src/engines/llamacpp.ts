// SPDX-License-Identifier: Apache-2.0
// llama.cpp's server, which tells its load when it was started with --metrics. It runs as many requests at once as it has
// slots; the others are deferred.

import { openAiEngine } from "./openai_engine.ts";

export const llamacpp = openAiEngine({
  waiting: "llamacpp:requests_deferred",
  running: "llamacpp:requests_processing",
  kvUsage: "llamacpp:kv_cache_usage_ratio",
  promptTokens: "llamacpp:prompt_tokens_total",
  generatedTokens: "llamacpp:tokens_predicted_total",
});
