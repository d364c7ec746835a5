// SPDX-License-Identifier: Apache-2.0
// Triton with TensorRT-LLM behind it. It has an HTTP server for health and metrics beside its gRPC one.

import type { RuleConfig } from "../../config/models.ts";
import type { Engine } from "../engine.ts";
import { readSignals, series } from "../signals.ts";
import type { TritonOptions } from "./grpc_call.ts";
import { TritonTranscoder } from "./transcoder.ts";

const NAMES = {
  waiting: series("nv_trt_llm_request_metrics", "request_type", "waiting"),
  running: series("nv_trt_llm_request_metrics", "request_type", "scheduled"),
  kvUsage: series("nv_trt_llm_kv_cache_block_metrics", "kv_cache_block_type", "fraction"),
  cacheValues: {
    blockSize: series("nv_trt_llm_kv_cache_block_metrics", "kv_cache_block_type", "tokens_per"),
    blocks: series("nv_trt_llm_kv_cache_block_metrics", "kv_cache_block_type", "max"),
  },
};

export function tritonEngine(options: TritonOptions): Engine {
  const transcoder = new TritonTranscoder(options);
  return {
    ...tritonProbes,
    prepare({ request }, rule) {
      const outgoing = transcoder.outgoing(request, rule);
      // gRPC has no use for a client's header fields.
      return { encode: (_leg, fields) => outgoing.target === "" ? outgoing : { ...outgoing, fields } };
    },
  };
}

/** What the control plane asks of a Triton: everything but requests. */
export const tritonProbes: Omit<Engine, "prepare"> = {
  alwaysTellsUsage: true,
  rewrites: true,
  signals: (text) => readSignals(NAMES, text),
  probes({ port, healthPort, metricsPort, metricsPath }, rule: RuleConfig | undefined) {
    const http = healthPort ?? (rule?.triton?.protocol === "http" ? port : undefined);
    return {
      health: http === undefined ? undefined : { port: http, path: "/v2/health/ready" },
      metrics: metricsPort === undefined ? undefined : { port: metricsPort, path: metricsPath },
      models: undefined,
    };
  },
};
