// SPDX-License-Identifier: Apache-2.0
// The engine's /metrics under vLLM's names.

import type { EngineModel } from "./engine_model.ts";

/** Prometheus text for a model. `kvUsage` is in 0..1 as vLLM reports it; `adapters` tells when each was asked for. */
export function metricsText(name: string, engine: EngineModel, adapters: ReadonlyMap<string, number>): string {
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
    `vllm:cache_config_info{block_size="${profile.blockTokens}",num_gpu_blocks="${profile.kvBlocks}",engine="0"} 1\n` +
    loraText(adapters);
}

/** Adapters that the engine has places for. */
const MAX_ADAPTERS = 4;

function loraText(adapters: ReadonlyMap<string, number>): string {
  if (adapters.size === 0) return "";
  const names = [...adapters].sort(([, a], [, b]) => b - a).slice(0, MAX_ADAPTERS).map(([name]) => name).join(",");
  return "# TYPE vllm:lora_requests_info gauge\n" +
    `vllm:lora_requests_info{max_lora="${MAX_ADAPTERS}",running_lora_adapters="${names}",waiting_lora_adapters=""} ${
      Date.now() / 1_000
    }\n`;
}
