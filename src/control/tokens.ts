// SPDX-License-Identifier: Apache-2.0
// Tokens of prompts by the configuration: a worker's, and those that engines are compared with.

import type { Config } from "../config/schema.ts";
import type { Log } from "../telemetry/log.ts";
import { PromptTokens } from "../tokens/prompt_tokens.ts";
import type { TokenizerPaths } from "../tokens/protocol.ts";

export function openTokens(log: Log): PromptTokens {
  return new PromptTokens({
    loaded(model, error, incremental) {
      if (error === undefined) log.info("a model's prompts are tokenised", { model, incremental });
      else log.error("a model's prompts cannot be tokenised: what engines hold of them is presumed", { model, error });
    },
    disagree: (model, tools, ours, theirs) =>
      log.warn("engines count other tokens than the tokenizer here: what they hold of such prompts is presumed", {
        model,
        tools,
        ours,
        theirs,
      }),
    failed: (error) => log.error("the thread that tokenises prompts ended", { error }),
  });
}

export function configureTokens(tokens: PromptTokens, { tokenizers, kv_events }: Config): void {
  const models = new Map<string, TokenizerPaths>();
  if (kv_events.enabled) {
    for (const [model, { file, config_file, chat_template_file }] of Object.entries(tokenizers)) {
      models.set(model, { file, configFile: config_file, templateFile: chat_template_file });
    }
  }
  tokens.configure({ models, cacheBytes: kv_events.token_cache_bytes, atOnce: kv_events.prompts_at_once });
}
