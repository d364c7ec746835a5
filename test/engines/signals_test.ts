// SPDX-License-Identifier: Apache-2.0
import { assert, assertEquals } from "@std/assert";
import { ManualClock } from "../../src/base/clock.ts";
import { Prober, type ProbeResult } from "../../src/engines/prober.ts";
import { readSignals } from "../../src/engines/signals.ts";

Deno.test("readSignals reads each engine's names, sums ranks, and takes the capacity from labels or values", () => {
  assertEquals(
    readSignals(
      "vllm",
      [
        "# HELP vllm:num_requests_waiting x",
        'vllm:num_requests_waiting{engine="0",model_name="a b}c"} 3.0',
        'vllm:num_requests_waiting{engine="1"} 2.0',
        'vllm:num_requests_running{engine="0"} 7',
        'vllm:kv_cache_usage_perc{engine="0"} 0.25',
        'vllm:kv_cache_usage_perc{engine="1"} 0.5',
        'vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="1000"} 1.0',
        'vllm:prompt_tokens_total{engine="0"} 1.5e+03',
      ].join("\n"),
    ),
    { waiting: 5, running: 7, kvUsage: 0.5, promptTokens: 1500, kvCapacityTokens: 16_000, adapters: undefined },
  );
  assertEquals(
    readSignals(
      "tensorrt-llm",
      "trtllm_num_requests_waiting 1\ntrtllm_kv_cache_tokens_per_block 32\ntrtllm_kv_cache_max_blocks 10\n",
    ),
    {
      waiting: 1,
      running: undefined,
      kvUsage: undefined,
      promptTokens: undefined,
      kvCapacityTokens: 320,
      adapters: undefined,
    },
  );
  assertEquals(
    readSignals(
      "triton",
      [
        'nv_trt_llm_request_metrics{model="t",request_type="waiting",version="1"} 4',
        'nv_trt_llm_request_metrics{model="t",request_type="scheduled",version="1"} 2',
        'nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="fraction",model="t"} 0.25',
        'nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="tokens_per",model="t"} 64',
        'nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="max",model="t"} 100',
      ].join("\n"),
    ),
    {
      waiting: 4,
      running: 2,
      kvUsage: 0.25,
      promptTokens: undefined,
      kvCapacityTokens: 6_400,
      adapters: undefined,
    },
  );
  assertEquals(
    readSignals(
      "vllm",
      [
        'vllm:lora_requests_info{max_lora="4",running_lora_adapters="old",waiting_lora_adapters=""} 100.5',
        'vllm:lora_requests_info{max_lora="4",running_lora_adapters="a,b",waiting_lora_adapters="c"} 200.5',
      ].join("\n"),
    ).adapters,
    { names: ["a", "b", "c"], most: 4 },
  );
  assertEquals(readSignals("openai", "anything 1"), {});
  assertEquals(readSignals("sglang", "sglang:num_queue_reqs 4\nsglang:token_usage NaN\nbroken{ 1").waiting, 4);
  assertEquals(readSignals("sglang", "").waiting, undefined);
});

Deno.test("Prober: refused and 5xx are unhealthy, a missing path is not, metrics may be missing", async () => {
  const clock = new ManualClock();
  const results = new Map<string, Partial<ProbeResult>>();
  const answers: Record<string, () => Response> = {
    "http://ok/health": () => new Response(""),
    "http://ok/metrics": () => new Response("m 1"),
    "http://plain/health": () => new Response("", { status: 404 }),
    "http://plain/metrics": () => new Response("", { status: 404 }),
    "http://sick/health": () => new Response("", { status: 503 }),
  };
  const prober = new Prober(
    {
      healthIntervalMs: 100,
      metricsIntervalMs: 100,
      timeoutMs: 50,
      concurrency: 8,
    },
    clock,
    ({ healthUrl }, { ms, ...result }) => {
      assert(ms >= 0);
      results.set(healthUrl!, result);
    },
    ((url: string) =>
      answers[url] ? Promise.resolve(answers[url]()) : Promise.reject(new TypeError("refused"))) as typeof fetch,
  );
  for (const name of ["ok", "plain", "sick", "gone"]) {
    const address = { hostname: name, port: 80 };
    prober.add({ healthUrl: `http://${name}/health`, metricsUrl: `http://${name}/metrics`, address });
  }
  prober.start();
  for (let i = 0; i < 20; i++) await new Promise((resolve) => setTimeout(resolve, 1));
  prober.stop();
  assertEquals(Object.fromEntries(results), {
    "http://ok/health": { healthy: true, metrics: "m 1" },
    "http://plain/health": { healthy: true, metrics: null },
    "http://sick/health": { healthy: false },
    "http://gone/health": { healthy: false },
  });
});
