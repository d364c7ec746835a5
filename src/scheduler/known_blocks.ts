// SPDX-License-Identifier: Apache-2.0
// Prompts whose blocks of tokens are on their way when they are decided.

import type { Clock } from "../base/clock.ts";
import type { AskedBlocks } from "../tokens/prompt_tokens.ts";
import type { HashedPrompt } from "./cache_knowledge.ts";

/** The tokens of a prompt, on their way, and how long they are worth waiting for. */
export interface AwaitedBlocks {
  readonly asked: AskedBlocks;
  readonly waitMs: number;
}

/** Waits a moment for the tokens of a prompt. Those that come later serve later looks. */
export async function awaitBlocks(prompt: HashedPrompt, { asked, waitMs }: AwaitedBlocks, clock: Clock): Promise<void> {
  prompt.asked = asked;
  if (asked.blocks !== undefined || waitMs <= 0) return;
  const late = Promise.withResolvers<void>();
  const cancel = clock.after(waitMs, late.resolve);
  await Promise.race([asked.soon, late.promise]);
  cancel();
}
