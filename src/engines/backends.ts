// SPDX-License-Identifier: Apache-2.0
// Every kind of engine by the name that rules give it.

import type { RuleConfig } from "../config/models.ts";
import type { Engine } from "./engine.ts";
import { llamacpp } from "./llamacpp.ts";
import { openAiEngine } from "./openai_engine.ts";
import { sglang } from "./sglang.ts";
import { tritonProbes } from "./triton/triton.ts";
import { trtllm } from "./trtllm.ts";
import { vllm } from "./vllm.ts";

export type Backend = RuleConfig["backend"];

/** Its load is known by our own count alone; so is that of `transformers serve`. */
const openai = openAiEngine(undefined);
const OPENAI = { vllm, sglang, "tensorrt-llm": trtllm, llamacpp, transformers: openai, openai };

/** What the control plane asks of engines: everything but requests. */
export const PROBED: Readonly<Record<Backend, Omit<Engine, "prepare">>> = { ...OPENAI, triton: tritonProbes };

/** The engines of a worker; Triton's has clients of its own. */
export function enginesWith(triton: Engine): Readonly<Record<Backend, Engine>> {
  return { ...OPENAI, triton };
}
