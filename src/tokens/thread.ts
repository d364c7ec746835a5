// SPDX-License-Identifier: Apache-2.0
// The thread beside a worker that tokenises prompts: 8 KiB of new text take some milliseconds of a processor, which no
// other request is to wait for.

import { keysOfTokens, rootKey } from "../base/block_keys.ts";
import { loadTokenizer } from "./load_tokenizer.ts";
import type { PromptTokenizer } from "./prompt_tokenizer.ts";
import type { FromTokenThread, ToTokenThread } from "./protocol.ts";
import { SegmentCache } from "./segment_cache.ts";

const scope = self as unknown as {
  onmessage: ((event: MessageEvent<ToTokenThread>) => void) | null;
  postMessage(message: FromTokenThread, transfer?: Transferable[]): void;
};

const decoder = new TextDecoder();
let tokenizers = new Map<string, PromptTokenizer>();

/** Characters that are tokenised in a ms, as a moving mean. */
let pace = 500;
const PACE_WEIGHT = 0.1;
/** Less than this says nothing of the pace. */
const PACED_CHARACTERS = 1_000;

scope.onmessage = ({ data }) => {
  if (data.kind === "models") load(data);
  else {
    const keys = keysOf(data);
    if (keys === undefined) scope.postMessage({ kind: "keys", id: data.id, keys: undefined, tokens: 0 });
    else scope.postMessage({ kind: "keys", id: data.id, ...keys }, [keys.keys.buffer]);
  }
};

function load({ models, cacheBytes }: ToTokenThread & { kind: "models" }): void {
  const loaded = new Map<string, PromptTokenizer>();
  /** Models with the same files share a tokenizer, and each a part of the bound. */
  const shared = new Map<string, PromptTokenizer>();
  const files = new Set(Array.from(models.values(), (paths) => JSON.stringify(paths))).size;
  for (const [model, paths] of models) {
    const key = JSON.stringify(paths);
    try {
      const tokenizer = shared.get(key) ?? loadTokenizer(paths, new SegmentCache(cacheBytes / files));
      shared.set(key, tokenizer);
      loaded.set(model, tokenizer);
      scope.postMessage({ kind: "model", model, error: undefined, incremental: tokenizer.incremental });
    } catch (error) {
      scope.postMessage({ kind: "model", model, error: (error as Error).message, incremental: false });
    }
  }
  tokenizers = loaded;
}

function keysOf({ id, model, body, cluster, lora, salt, waitMs }: ToTokenThread & { kind: "prompt" }) {
  let [characters, began] = [0, 0];
  const begins = (count: number): void => {
    characters = count;
    began = performance.now();
    if (waitMs > 0 && characters > pace * waitMs) scope.postMessage({ kind: "late", id });
  };
  try {
    const tokens = tokenizers.get(model)?.tokensOf(JSON.parse(decoder.decode(body)), begins);
    if (tokens === undefined) return undefined;
    if (characters >= PACED_CHARACTERS) {
      pace += PACE_WEIGHT * (characters / Math.max(0.01, performance.now() - began) - pace);
    }
    return { keys: keysOfTokens(tokens, rootKey(cluster, lora), salt), tokens: tokens.length };
  } catch {
    return undefined; // e.g. nested too deeply; its engine says what is wrong with it
  }
}
