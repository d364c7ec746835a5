// SPDX-License-Identifier: Apache-2.0
import { assert, assertEquals } from "@std/assert";
import { settle } from "../support/parts.ts";
import { UpstreamError } from "../../src/upstream/errors.ts";
import { ManualClock } from "../../src/base/clock.ts";
import { readTold } from "../../src/engines/signals.ts";
import { Prober, type ProbeResult } from "../../src/engines/prober.ts";
import { PROBED } from "../../src/engines/backends.ts";
import type { Backend } from "../../src/engines/backends.ts";

const readSignals = (backend: Backend, text: string) => PROBED[backend].signals(text);

Deno.test("signals: reads each engine's names, sums ranks, and takes the capacity from labels or values", () => {
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
    {
      waiting: 5,
      running: 7,
      kvUsage: 0.5,
      promptTokens: 1500,
      kvCapacityTokens: 16_000,
    },
  );
  assertEquals(
    readSignals(
      "tensorrt-llm",
      "trtllm_num_requests_waiting 1\ntrtllm_kv_cache_tokens_per_block 32\ntrtllm_kv_cache_max_blocks 10\n",
    ),
    {
      waiting: 1,
      kvCapacityTokens: 320,
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
        "process_start_time_seconds 1.7e+09",
      ].join("\n"),
    ),
    {
      waiting: 4,
      running: 2,
      kvUsage: 0.25,
      kvCapacityTokens: 6_400,
      startTime: 1_700_000_000,
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
    { names: ["a", "b", "c"], max: 4 },
  );
  assertEquals(readSignals("openai", "anything 1"), {});
  assertEquals(readSignals("sglang", "sglang:num_queue_reqs 4\nsglang:token_usage NaN\nbroken{ 1").waiting, 4);
  assertEquals(readSignals("sglang", "").waiting, undefined);
});

Deno.test("signals: capacities, sleep, progress and prefix hits under the names of each engine", () => {
  const vllm = [
    'vllm:cache_config_info{block_size="32",kv_cache_size_tokens="16384",num_gpu_blocks="None"} 1.0',
    'vllm:engine_sleep_state{engine="0",sleep_state="awake"} 0.0',
    'vllm:engine_sleep_state{engine="0",sleep_state="weights_offloaded"} 1.0',
    'vllm:generation_tokens_total{engine="0"} 3613.0',
    'vllm:generation_tokens_total{engine="1"} 7.0',
    'vllm:prefix_cache_queries_total{engine="0"} 13743.0',
    'vllm:prefix_cache_queries_created{engine="0"} 1.79e+09',
    'vllm:prefix_cache_hits_total{engine="0"} 11648.0',
    'http_requests_total{handler="vllm:num_requests_waiting 9"} 1',
    "xvllm:num_requests_running 5",
  ].join("\n");
  assertEquals(readSignals("vllm", vllm), {
    kvCapacityTokens: 16_384,
    generatedTokens: 3_620,
    asleep: true,
    prefixTokens: { queried: 13_743, hit: 11_648 },
  });
  const awake = 'vllm:engine_sleep_state{sleep_state="awake"} 1\nvllm:engine_sleep_state{sleep_state="awake"} 0';
  assertEquals(readSignals("vllm", awake), { asleep: false }, "one rank is awake");
  assertEquals(readSignals("sglang", 'sglang:max_total_num_tokens{tp="0"} 4096').kvCapacityTokens, 4_096);
  assertEquals(readSignals("sglang", "sglang:page_size 64\nsglang:num_pages 10").kvCapacityTokens, 640);
  assertEquals(
    readSignals("sglang", 'sglang:cache_config_info{page_size="1",num_pages="77"} 1\nsglang:max_total_num_tokens 9')
      .kvCapacityTokens,
    77,
  );
  const llamacpp = "llamacpp:requests_processing 4\nllamacpp:requests_deferred 2\nllamacpp:tokens_predicted_total 8";
  assertEquals(readSignals("llamacpp", llamacpp), { running: 4, waiting: 2, generatedTokens: 8 });
  assertEquals(readSignals("transformers", llamacpp), {});
});

Deno.test("Prober: refused and 5xx are unhealthy and say why, a missing path is not, metrics and models may be missing", async () => {
  const clock = new ManualClock();
  const results = new Map<number, Partial<ProbeResult>>();
  const page = (status: number, text = "") => ({ status, text });
  const engines: Record<string, Record<string, { status: number; text: string }>> = {
    ok: { "/health": page(200), "/metrics": page(200, "m 1"), "/v1/models": page(200, "[]") },
    plain: { "/health": page(404), "/metrics": page(404), "/v1/models": page(404) },
    sick: { "/health": page(503) },
    gone: {},
    slow: {},
  };
  const options = {
    healthIntervalMs: 100,
    metricsIntervalMs: 100,
    modelsIntervalMs: 100,
    timeoutMs: 50,
    concurrency: 16,
  };
  const all = Promise.withResolvers<void>();
  const prober = new Prober(options, clock, ({ port }, { ms, healthMs = 0, ...result }) => {
    assert(ms >= 0 && healthMs >= 0);
    results.set(port, { ...results.get(port), ...result });
    if (results.size === 5) all.resolve();
  });
  Object.entries(engines).forEach(([name, pages], port) => {
    const refused = new UpstreamError("connect_failed", "nobody listens");
    const late = new UpstreamError("first_byte_timeout", "late");
    const at = (path: string) => ({ port, path });
    const reader = {
      get: (_: number, path: string) =>
        pages[path] ? Promise.resolve(pages[path]) : Promise.reject(name === "gone" ? refused : late),
      connects: () => Promise.resolve(true),
    };
    const asked = { health: at("/health"), metrics: at("/metrics"), models: at("/v1/models") };
    prober.add({ pages: asked, port, reader });
  });
  prober.start();
  await all.promise;
  await settle();
  prober.stop();
  assertEquals([...results].sort(([a], [b]) => a - b).map(([, result]) => result), [
    { healthy: true, metrics: "m 1", models: "[]" },
    { healthy: true, metrics: null },
    { healthy: false, failure: "status", why: "/health answered 503" },
    { healthy: false, failure: "refused", why: "/health: nobody listens" },
    { healthy: false, failure: "silent", why: "/health: late" },
  ]);
});

Deno.test("Prober: a list of models that is long in coming holds no other probe up", async () => {
  const clock = new ManualClock();
  const list = Promise.withResolvers<{ status: number; text: string }>();
  const asked: string[] = [];
  const results: Partial<ProbeResult>[] = [];
  const options = {
    healthIntervalMs: 100,
    metricsIntervalMs: 100,
    modelsIntervalMs: 100,
    timeoutMs: 50,
    concurrency: 8,
  };
  const prober = new Prober(options, clock, (_, result) => results.push(result));
  const reader = {
    get(_: number, path: string) {
      asked.push(path);
      return path === "/v1/models" ? list.promise : Promise.resolve({ status: 200, text: "" });
    },
    connects: () => Promise.resolve(true),
  };
  const at = (path: string) => ({ port: 1, path });
  const pages = { health: at("/health"), metrics: at("/metrics"), models: at("/v1/models") };
  prober.add({ pages, port: 1, reader }, 150);
  prober.start();
  for (let i = 0; i < 20; i++) {
    await settle();
    clock.advance(50);
  }
  assertEquals(asked.filter((path) => path === "/v1/models").length, 1);
  assert(asked.filter((path) => path === "/health").length >= 9, `${asked}`);
  list.resolve({ status: 200, text: "[]" });
  await settle();
  assertEquals(results.filter(({ models }) => models === "[]").length, 1);
  await prober.stop();
});

Deno.test("Prober: one that accepts no connection is asked once more soon, and then as often as the others", async () => {
  const clock = new ManualClock();
  const options = {
    healthIntervalMs: 1_000,
    metricsIntervalMs: 10_000,
    modelsIntervalMs: 1e6,
    timeoutMs: 50,
    concurrency: 4,
  };
  const times: number[] = [];
  const prober = new Prober(options, clock, (_, { healthy }) => {
    if (healthy !== undefined) times.push(clock.now());
  });
  let refuses = true;
  const reader = {
    get: () =>
      refuses
        ? Promise.reject(new UpstreamError("connect_failed", "nobody listens"))
        : Promise.resolve({ status: 200, text: "" }),
    connects: () => Promise.resolve(true),
  };
  const at = (path: string) => ({ port: 1, path });
  const began = clock.now();
  prober.add({ pages: { health: at("/health"), metrics: at("/metrics"), models: at("/models") }, port: 1, reader });
  prober.start();
  const pass = async (ms: number) => {
    for (let passed = 0; passed < ms; passed += 50) {
      await settle();
      clock.advance(50);
    }
    await settle();
    return times.splice(0).map((time) => time - began);
  };
  assertEquals(await pass(2_400), [0, 250, 1_250, 2_250]);
  refuses = false;
  assertEquals(await pass(2_000), [3_250, 4_250]);
  refuses = true;
  assertEquals(await pass(2_000), [5_250, 5_500]);
  prober.stop();
});

Deno.test("Prober: of gateways that hear from each other one asks for metrics, and when it is gone another one does", async () => {
  const clock = new ManualClock();
  const options = {
    healthIntervalMs: 1e6,
    metricsIntervalMs: 1_000,
    modelsIntervalMs: 1e6,
    timeoutMs: 50,
    concurrency: 4,
  };
  const asked: number[][] = [[], [], [], []];
  const at = (path: string) => ({ port: 1, path });
  const pages = { health: at("/health"), metrics: at("/metrics"), models: at("/models") };
  const gone = new Set<number>();
  const gateways = asked.map((times, i) => {
    const reader = {
      get(_: number, path: string) {
        if (path === "/metrics") times.push(clock.now());
        return Promise.resolve({ status: 200, text: "" });
      },
      connects: () => Promise.resolve(true),
    };
    const target = { pages, port: 1, reader };
    const prober = new Prober(options, clock, (_, { metrics }) => {
      if (metrics === undefined || gone.has(i)) return;
      for (const [j, other] of gateways.entries()) if (j !== i) other.prober.heard(other.target);
    });
    return { prober, target };
  });
  for (const { prober, target } of gateways) {
    prober.add(target);
    prober.start();
  }
  const pass = async (ms: number) => {
    const before = asked.flat().length;
    for (let passed = 0; passed < ms; passed += 50) {
      await settle();
      clock.advance(50);
    }
    return asked.flat().length - before;
  };
  const count = await pass(60_000);
  assert(count >= 26 && count <= 90, `${count} times in 60 s, as one gateway alone would`);
  const leader = asked.findIndex((times) => times.at(-1) === Math.max(...asked.flat()));
  gone.add(leader);
  gateways[leader].prober.stop();
  const later = await pass(60_000);
  assert(later >= 26 && later <= 90, `${later} times in the next 60 s`);
  for (const { prober } of gateways) prober.stop();
});

Deno.test("readTold takes what a gateway read, and nothing else", () => {
  const signals = { waiting: 3, running: 8, kvUsage: 0.5, adapters: { names: ["a"], max: 4 }, asleep: false };
  assertEquals(readTold(JSON.parse(JSON.stringify(signals))), signals);
  for (const bad of [null, 1, [], { waiting: "3" }, { kvUsage: -1 }, { adapters: { names: [1], max: 4 } }]) {
    assertEquals(readTold(bad), undefined, JSON.stringify(bad));
  }
});

Deno.test("readSignals: of one rank, what names no rank is of all of them", () => {
  const page = `vllm:num_requests_waiting{engine="0",model_name="m"} 3
vllm:num_requests_waiting{engine="1",model_name="m"} 7
vllm:num_requests_running{engine="10"} 5
process_start_time_seconds 99
`;
  const { signals } = PROBED.vllm;
  assertEquals([signals(page, 0).waiting, signals(page, 1).waiting, signals(page).waiting], [3, 7, 10]);
  assertEquals([signals(page, 1).running, signals(page, 10).running, signals(page, 1).startTime], [undefined, 5, 99]);
});
