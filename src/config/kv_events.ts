// SPDX-License-Identifier: Apache-2.0
// What the gateway knows of engines' caches exactly: where engines publish it, and the tokenizers that make the same blocks
// of prompts.

import { z } from "zod";
import { addressSchema } from "./sections.ts";

const ZMQ_ADDRESS = /^tcp:\/\/(\[[0-9a-fA-F:]+\]|[^:/[\]]+):(\d{1,5})$/;

const zmqSchema = z.string().refine((text) => zmqAddress(text, "") !== undefined, {
  error: "expected tcp://HOST:PORT, with * for the engine's own host",
});

/** HOST and PORT of a ZeroMQ address over TCP; of a host that stands for any, `own` instead. Undefined when it is none. */
export function zmqAddress(text: string, own: string): { hostname: string; port: number } | undefined {
  const [, host, digits] = ZMQ_ADDRESS.exec(text) ?? [];
  const port = Number(digits);
  if (host === undefined || port < 1 || port > 65_535) return undefined;
  const hostname = host.replace(/^\[|\]$/g, "");
  return { hostname: ["*", "0.0.0.0", "::"].includes(hostname) ? own : hostname, port };
}

/** Of a cluster. */
export const clusterKvEventsSchema = z.union([
  z.literal(false),
  z.strictObject({
    endpoint: zmqSchema.describe("Where its engines publish, e.g. tcp://*:5557"),
    replay_endpoint: zmqSchema.optional().describe("Where they are asked for what was missed"),
    topic: z.string().max(256).default("").describe("Beginning of the topics that are listened to"),
  }),
]);

export const kvEventsSchema = z.strictObject({
  enabled: z.boolean().default(true).describe(
    "Listen to engines that say where they publish (vLLM, SGLang), or whose cluster says so, for models with a tokenizer",
  ),
  listen: addressSchema.optional().describe(
    "Where engines connect to that publish so; their topics tell which they are: kv@HOST:PORT@MODEL",
  ),
  wait_ms: z.number().min(0).max(1_000).default(5)
    .describe("How long a request waits for its tokens before it is decided by its text alone; 0 for not at all"),
  least_prompt_bytes: z.int().min(0).max(1_000_000_000).default(2_048)
    .describe("Shorter prompts are decided by their text"),
  prompts_at_once: z.int().min(1).max(65_536).default(256).describe("Prompts that a worker has tokenised at once"),
  token_cache_bytes: z.int().min(0).max(4_294_967_296).default(67_108_864)
    .describe("Text and tokens of earlier turns that are kept, in each worker"),
  max_lag_ms: z.number().min(1).max(3_600_000).default(1_000)
    .describe("An engine whose events come later than that is presumed to hold what it was sent"),
  look_ms: z.int().min(100).max(3_600_000).default(10_000)
    .describe("How often an engine is asked where it publishes, until it says so"),
  retry_ms: z.int().min(10).max(60_000).default(500).describe(
    "Pause before a lost connection is tried again, at first",
  ),
  connect_ms: z.int().min(10).max(60_000).default(2_000),
  replay_ms: z.int().min(10).max(600_000).default(10_000).describe("Longest replay of what was missed"),
  message_bytes: z.int().min(1_024).max(1_073_741_824).default(67_108_864).describe("Longest message that is taken"),
}).prefault({});

/** By the name of the model in model_mapping_rule. */
export const tokenizersSchema = z.record(
  z.string().min(1),
  z.strictObject({
    file: z.string().min(1).describe("Its tokenizer.json, relative to this file"),
    config_file: z.string().min(1).optional().describe("tokenizer_config.json, beside it when not set"),
    chat_template_file: z.string().min(1).optional().describe(
      "Jinja chat template; when not set chat_template.jinja beside it, or that of tokenizer_config.json",
    ),
  }),
);

export type ClusterKvEvents = z.infer<typeof clusterKvEventsSchema>;
export type KvEventsConfig = z.infer<typeof kvEventsSchema>;
export type TokenizersConfig = z.infer<typeof tokenizersSchema>;
