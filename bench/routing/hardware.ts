// SPDX-License-Identifier: Apache-2.0
// Hardware of simulated engines, and fleets made of it.

import type { EngineProfile } from "../../src/mock/engine_model.ts";
import { BLOCK_TOKENS } from "./trace.ts";

const VLLM = {
  prefillTokensPerSecond: 17_544,
  prefillChunkTokens: 2_048,
  stepBaseMs: 10.6,
  stepPerRunningMs: 0.42,
  stepPerContextMs: 0.142,
  attentionMs: 4.4,
  maxRunning: 256,
  blockTokens: 64,
  kvBlocks: 8_192,
  growing: true,
} as const satisfies EngineProfile;

/** By name. `standard` is that of the reference figures: blocks of 512 tokens, 1,024 of them. */
export const HARDWARE = {
  small: {
    prefillTokensPerSecond: 4_000,
    prefillChunkTokens: 1_024,
    stepBaseMs: 9,
    stepPerRunningMs: 0.6,
    maxRunning: 128,
    blockTokens: BLOCK_TOKENS,
    kvBlocks: 512,
  },
  standard: {
    prefillTokensPerSecond: 8_000,
    prefillChunkTokens: 2_048,
    stepBaseMs: 6,
    stepPerRunningMs: 0.35,
    maxRunning: 256,
    blockTokens: BLOCK_TOKENS,
    kvBlocks: 1_024,
  },
  large: {
    prefillTokensPerSecond: 16_000,
    prefillChunkTokens: 4_096,
    stepBaseMs: 5,
    stepPerRunningMs: 0.2,
    maxRunning: 512,
    blockTokens: BLOCK_TOKENS,
    kvBlocks: 4_096,
  },
  /**
   * As measured on one GPU with a small model, with the scheduler of vLLM v1 and its defaults: prefills of k thousand tokens
   * take 57 ms · k + 4.4 ms · k², steps 10.6 ms, 0.42 ms a sequence and 0.142 ms for each thousand tokens of their contexts.
   * (The measurement has 66 ms more before any first token.) Blocks of 64 tokens, not 16, to save time: what prompts
   * share comes in pieces of 512.
   */
  vllm: VLLM,
  /** The same with --long-prefill-token-threshold 512: four prompts at once. */
  vllm_sharing: { ...VLLM, longPrefillTokens: 512 },
  /** The same with a large model over several GPUs: 125 ms · k, steps of 28 ms, and a budget of 8,192 tokens. */
  vllm_large: { ...VLLM, prefillTokensPerSecond: 8_000, prefillChunkTokens: 8_192, stepBaseMs: 28 },
} as const satisfies Record<string, EngineProfile>;

/** `8` for as many standard engines, `small:4,large:2` for some of each; undefined for anything else. */
export function parseFleet(text: string): EngineProfile[] | undefined {
  const parts = /^\d+$/.test(text) ? [`standard:${text}`] : text.split(",");
  const fleet: EngineProfile[] = [];
  for (const part of parts) {
    const [, name, count] = part.match(/^(\w+):([1-9]\d{0,3})$/) ?? [];
    if (!Object.hasOwn(HARDWARE, name ?? "")) return undefined;
    fleet.push(...Array<EngineProfile>(Number(count)).fill(HARDWARE[name as keyof typeof HARDWARE]));
  }
  return fleet;
}
