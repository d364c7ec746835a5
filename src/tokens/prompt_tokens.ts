// SPDX-License-Identifier: Apache-2.0
// A worker's side of its thread for tokens: asks for the keys of a prompt's blocks, which come when they come.

import { KEY_TOKENS } from "../base/block_keys.ts";
import type { FromTokenThread, TokenizerPaths, ToTokenThread } from "./protocol.ts";

/** The blocks of a prompt: keys as pairs of words. */
export interface PromptBlocks {
  readonly keys: Uint32Array;
  readonly tokens: number;
}

/** Keys that were asked for. */
export interface AskedBlocks {
  /** What came; undefined until then, and where they cannot be told. */
  readonly blocks: PromptBlocks | undefined;
  /** Resolves when they are there, or cannot be told. */
  readonly done: Promise<void>;
  /** The same, or when that takes longer than they are waited for. */
  readonly soon: Promise<void>;
  /** What its engine counted. */
  counted?(promptTokens: number): void;
}

class Asked implements AskedBlocks {
  blocks: PromptBlocks | undefined;
  readonly #done = Promise.withResolvers<void>();
  readonly done = this.#done.promise;
  readonly #soon = Promise.withResolvers<void>();
  readonly soon = this.#soon.promise;

  constructor(readonly compare: (ours: number, theirs: number) => void) {}

  late(): void {
    this.#soon.resolve();
  }

  counted(promptTokens: number): void {
    if (this.blocks !== undefined) this.compare(this.blocks.tokens, promptTokens);
  }

  answered(blocks: PromptBlocks | undefined): void {
    this.blocks = blocks;
    this.#done.resolve();
    this.late();
  }
}

export interface PromptTokensParts {
  /** Is told which model's tokenizer is in use, or why it is not. */
  loaded(model: string, error: string | undefined, incremental: boolean): void;
  /** Engines count other tokens of a model's prompts, of those with tools or without: they are not tokenised any more. */
  disagree(model: string, tools: boolean, ours: number, theirs: number): void;
  /** The thread died, and is started again after a while. */
  failed(error: string): void;
}

export interface PromptTokensSettings {
  readonly models: ReadonlyMap<string, TokenizerPaths>;
  /** Text and tokens that are kept. */
  readonly cacheBytes: number;
  /** Prompts that may be asked for at once; beyond, they are not tokenised. */
  readonly atOnce: number;
}

const RESTART_MS = 5_000;
/** So often in a row, and there is something that engines do and the tokenizer here does not. */
const MOST_DIFFERENT = 3;

export class PromptTokens {
  #thread: Worker | undefined;
  #settings: PromptTokensSettings = { models: new Map(), cacheBytes: 0, atOnce: 0 };
  #restart: ReturnType<typeof setTimeout> | undefined;
  readonly #loaded = new Set<string>();
  readonly #asked = new Map<number, Asked>();
  /** By model, for prompts with tools and without: how often in a row engines counted others. */
  readonly #different = new Map<string, number>();
  #next = 0;

  constructor(readonly parts: PromptTokensParts) {}

  /** Uses these tokenizers from now on; without any there is no thread. */
  configure(settings: PromptTokensSettings): void {
    const before = this.#settings;
    this.#settings = settings;
    if (textOf(before) === textOf(settings)) return;
    this.#loaded.clear();
    this.#different.clear();
    if (settings.models.size === 0) return this.close();
    if (this.#restart === undefined) this.#begin();
  }

  /** Whether a model's prompts can be asked for. */
  knows(model: string): boolean {
    return this.#loaded.has(model);
  }

  /** undefined where that is of no use: the thread has too much to do. */
  ask({ tools = false, waitMs = 0, ...prompt }: {
    model: string;
    body: Uint8Array;
    cluster: number;
    lora: string;
    salt: string;
    /** How long it is going to be waited for; 0 for as long as it takes. */
    waitMs?: number;
    /** The prompt has some. */
    tools?: boolean;
  }): AskedBlocks | undefined {
    const kind = `${tools} ${prompt.model}`;
    if ((this.#different.get(kind) ?? 0) >= MOST_DIFFERENT) return undefined;
    if (this.#thread === undefined || this.#asked.size >= this.#settings.atOnce) return undefined;
    const id = this.#next++;
    const asked = new Asked((ours, theirs) => {
      const before = this.#different.get(kind) ?? 0;
      const different = ours === theirs ? 0 : before + 1;
      if (different !== before) this.#different.set(kind, different);
      if (before < MOST_DIFFERENT && different === MOST_DIFFERENT) {
        this.parts.disagree(prompt.model, tools, ours, theirs);
      }
    });
    this.#asked.set(id, asked);
    this.#send({ kind: "prompt", id, waitMs, ...prompt });
    return asked;
  }

  close(): void {
    clearTimeout(this.#restart);
    this.#restart = undefined;
    this.#thread?.terminate();
    this.#thread = undefined;
    this.#giveUp();
  }

  #begin(): void {
    const { models, cacheBytes } = this.#settings;
    this.#thread ??= this.#start();
    this.#send({ kind: "models", models, cacheBytes });
  }

  #start(): Worker {
    const thread = new Worker(new URL("./thread.ts", import.meta.url), { type: "module", name: "tokens" });
    thread.onmessage = ({ data }: MessageEvent<FromTokenThread>) => this.#take(data);
    thread.onerror = (event) => {
      event.preventDefault();
      this.parts.failed(event.message);
      this.#loaded.clear();
      this.close();
      this.#restart = setTimeout(() => {
        this.#restart = undefined;
        this.#begin();
      }, RESTART_MS);
    };
    return thread;
  }

  #take(message: FromTokenThread): void {
    if (message.kind === "model") {
      if (message.error === undefined && this.#settings.models.has(message.model)) this.#loaded.add(message.model);
      return this.parts.loaded(message.model, message.error, message.incremental);
    }
    if (message.kind === "late") return this.#asked.get(message.id)?.late();
    const { id, keys, tokens } = message;
    this.#asked.get(id)?.answered(keys === undefined || tokens < KEY_TOKENS ? undefined : { keys, tokens });
    this.#asked.delete(id);
  }

  #giveUp(): void {
    for (const asked of this.#asked.values()) asked.answered(undefined);
    this.#asked.clear();
  }

  #send(message: ToTokenThread): void {
    this.#thread?.postMessage(message);
  }
}

function textOf({ models, cacheBytes }: PromptTokensSettings): string {
  return JSON.stringify([...models, cacheBytes]);
}
