// SPDX-License-Identifier: Apache-2.0
// Whether an engine has the tokens of a prompt that the model's tokenizer has here: the same files, the same template. If not,
// what it tells of its blocks is compared with blocks that it never has.

import { keysOfTokens, rootKey } from "../base/block_keys.ts";
import type { Config } from "../config/schema.ts";
import type { PromptTokens } from "../tokens/prompt_tokens.ts";
import type { Member } from "./member.ts";

const PAGE_MS = 5_000;

/** A conversation that every chat template takes, with what tokenizers differ in. */
const PROBE = [
  {
    role: "user",
    content:
      "  Summarise the following: caf\u00e9, na\u00efve, 12345.678, \u6c49\u5b57, \ud83d\ude00 and\ttabs.\n\n\n- one\n- two\n",
  },
  { role: "assistant", content: 'It lists words, numbers, and it\'s got symbols: {"a": [1, 2]}.' },
  { role: "user", content: "Thanks! Now say it again, in fewer than ten words." },
];

export type Verdict =
  | { readonly kind: "same" }
  /** The engine does not tell its tokens. */
  | { readonly kind: "unknown" }
  /** The tokenizer is not there yet. */
  | { readonly kind: "not yet" }
  | { readonly kind: "different"; readonly why: string };

/** Models of a cluster that have a tokenizer here. */
export function modelsOf({ tokenizers, model_mapping_rule }: Config, cluster: string): string[] {
  return Object.keys(tokenizers).filter((model) =>
    model_mapping_rule[model]?.rules.some((rule) => rule.cluster === cluster)
  );
}

/** Compares the tokens of every model with a tokenizer that the engine serves. Throws UpstreamError. */
export async function checkTokens(config: Config, tokens: PromptTokens, member: Readonly<Member>): Promise<Verdict> {
  const { cluster, clusterRow, reader, spec: { port } } = member;
  let told = false;
  for (const model of modelsOf(config, cluster)) {
    const rule = config.model_mapping_rule[model].rules.find((one) => one.cluster === cluster)!;
    if (!tokens.knows(model)) return { kind: "not yet" };
    const body = { model: rule.target_model || model, messages: PROBE, add_generation_prompt: true };
    const { status, text } = await reader.post(port, "/tokenize", body, PAGE_MS);
    const theirs = status === 200 ? tokensIn(text) : undefined;
    if (theirs === undefined) continue;
    told = true;
    const asked = tokens.ask({
      model,
      body: new TextEncoder().encode(JSON.stringify(body)),
      cluster: clusterRow,
      lora: "",
      salt: "",
    });
    await asked?.done;
    const ours = asked?.blocks;
    const its = keysOfTokens(theirs, rootKey(clusterRow, ""));
    const same = ours !== undefined && ours.tokens === theirs.length && ours.keys.every((word, i) => word === its[i]);
    if (!same) {
      const counts = `${theirs.length} tokens there, ${ours?.tokens ?? "none"} here`;
      return { kind: "different", why: `it has other tokens of ${model} than the tokenizer named here: ${counts}` };
    }
  }
  return { kind: told ? "same" : "unknown" };
}

function tokensIn(text: string): number[] | undefined {
  try {
    const { tokens } = JSON.parse(text);
    return Array.isArray(tokens) && tokens.every((token) => typeof token === "number") ? tokens : undefined;
  } catch {
    return undefined;
  }
}
