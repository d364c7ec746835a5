// SPDX-License-Identifier: Apache-2.0
// The names under which each engine reports its load, and how to read them from its Prometheus text.

export type Backend = "vllm" | "sglang" | "tensorrt-llm";

/** What an engine reported; undefined where it said nothing. */
export interface EngineSignals {
  /** Requests in its queue. */
  waiting?: number;
  /** Requests in its batch. */
  running?: number;
  /** Share of its KV cache in use, 0 to 1. */
  kvUsage?: number;
  /** Tokens that its KV cache holds. */
  kvCapacityTokens?: number;
  /** Prompt tokens since it started: a smaller figure than before means that it restarted. */
  promptTokens?: number;
}

interface SignalNames {
  waiting: string;
  running: string;
  kvUsage: string;
  promptTokens?: string;
  /** A metric whose labels give block size and number of blocks. */
  cacheInfo?: { metric: string; blockSize: string; blocks: string };
  /** Metrics whose values do. */
  cacheValues?: { blockSize: string; blocks: string };
}

const NAMES: Record<Backend, SignalNames> = {
  "vllm": {
    waiting: "vllm:num_requests_waiting",
    running: "vllm:num_requests_running",
    kvUsage: "vllm:kv_cache_usage_perc",
    promptTokens: "vllm:prompt_tokens_total",
    cacheInfo: { metric: "vllm:cache_config_info", blockSize: "block_size", blocks: "num_gpu_blocks" },
  },
  "sglang": {
    waiting: "sglang:num_queue_reqs",
    running: "sglang:num_running_reqs",
    kvUsage: "sglang:token_usage",
    promptTokens: "sglang:prompt_tokens_total",
    cacheInfo: { metric: "sglang:cache_config_info", blockSize: "page_size", blocks: "num_pages" },
  },
  "tensorrt-llm": {
    waiting: "trtllm_num_requests_waiting",
    running: "trtllm_num_requests_running",
    kvUsage: "trtllm_kv_cache_utilization",
    cacheValues: { blockSize: "trtllm_kv_cache_tokens_per_block", blocks: "trtllm_kv_cache_max_blocks" },
  },
};

/** Reads the signals of a backend. Counts of several ranks are added up, usage is that of the fullest. */
export function readSignals(backend: Backend, text: string): EngineSignals {
  const names = NAMES[backend];
  const values = new Map<string, { sum: number; most: number; labels: string }>();
  const wanted = new Set(
    [
      names.waiting,
      names.running,
      names.kvUsage,
      names.promptTokens,
      names.cacheInfo?.metric,
      names.cacheValues?.blockSize,
      names.cacheValues?.blocks,
    ].filter((name) => name !== undefined),
  );
  for (const line of text.split("\n")) {
    const end = line.search(/[{\s]/);
    const name = line.slice(0, end);
    if (end <= 0 || !wanted.has(name)) continue;
    const close = line[end] === "{" ? line.lastIndexOf("}") : end;
    const value = Number(line.slice(close + 1).trim().split(/\s+/)[0]);
    if (Number.isNaN(value)) continue;
    const before = values.get(name);
    values.set(name, {
      sum: (before?.sum ?? 0) + value,
      most: Math.max(before?.most ?? -Infinity, value),
      labels: before?.labels ?? line.slice(end, close + 1),
    });
  }
  return {
    waiting: values.get(names.waiting)?.sum,
    running: values.get(names.running)?.sum,
    kvUsage: values.get(names.kvUsage)?.most,
    promptTokens: names.promptTokens === undefined ? undefined : values.get(names.promptTokens)?.sum,
    kvCapacityTokens: capacity(names, values),
  };
}

function capacity(names: SignalNames, values: Map<string, { sum: number; labels: string }>): number | undefined {
  let tokens = NaN;
  if (names.cacheInfo) {
    const { metric, blockSize, blocks } = names.cacheInfo;
    const labels = values.get(metric)?.labels ?? "";
    const label = (name: string) => Number(new RegExp(`[{,]\\s*${name}="(\\d+)"`).exec(labels)?.[1]);
    tokens = label(blockSize) * label(blocks);
  } else if (names.cacheValues) {
    tokens = (values.get(names.cacheValues.blockSize)?.sum ?? NaN) * (values.get(names.cacheValues.blocks)?.sum ?? NaN);
  }
  return tokens > 0 ? tokens : undefined;
}
