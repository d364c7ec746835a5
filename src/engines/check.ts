// SPDX-License-Identifier: Apache-2.0
// What of a configuration only its engines can judge.

import type { Config, ConfigIssue } from "../config/schema.ts";
import { PromptTemplate } from "./triton/prompt.ts";

/** Chat templates that are none, each with its path. */
export function engineIssues(config: Config): ConfigIssue[] {
  const issues: ConfigIssue[] = [];
  for (const [model, { rules }] of Object.entries(config.model_mapping_rule)) {
    rules.forEach(({ triton }, i) => {
      if (triton?.chat_template === undefined) return;
      try {
        new PromptTemplate({ template: triton.chat_template, bosToken: "", eosToken: "" });
      } catch (error) {
        const key = triton.chat_template_file === undefined ? "chat_template" : "chat_template_file";
        const message = `is no Jinja chat template: ${(error as Error).message}`;
        issues.push({ path: `model_mapping_rule.${model}.rules[${i}].triton.${key}`, message });
      }
    });
  }
  return issues;
}
