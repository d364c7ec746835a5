// SPDX-License-Identifier: Apache-2.0
// The engine's /metrics under vLLM's names.

import type { EngineModel } from "./engine_model.ts";

/** Prometheus text for a model. `kvUsage` is in 0..1 as vLLM reports it. */
export function metricsText(name: string, engine: EngineModel): string {
  const labels = `engine="0",model_name="${name}"`;
  const { profile, cache } = engine;
  const sample = (metric: string, type: string, value: number) =>
    `# TYPE vllm:${metric} ${type}\nvllm:${metric}{${labels}} ${value}\n`;
  return sample("num_requests_waiting", "gauge", engine.waiting) +
    sample("num_requests_running", "gauge", engine.running) +
    sample("kv_cache_usage_perc", "gauge", engine.kvUsage) +
    sample("prefix_cache_queries_total", "counter", cache.queries * profile.blockTokens) +
    sample("prefix_cache_hits_total", "counter", cache.hits * profile.blockTokens) +
    sample("prompt_tokens_total", "counter", engine.promptTokensTotal) +
    sample("generation_tokens_total", "counter", engine.generatedTokensTotal) +
    `# TYPE vllm:cache_config_info gauge\n` +
    `vllm:cache_config_info{block_size="${profile.blockTokens}",num_gpu_blocks="${profile.kvBlocks}",engine="0"} 1\n`;
}
