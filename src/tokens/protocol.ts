// SPDX-License-Identifier: Apache-2.0
// What a worker and its thread for tokens say to each other.

/** A model's tokenizer, by paths of files. */
export interface TokenizerPaths {
  readonly file: string;
  readonly configFile: string | undefined;
  readonly templateFile: string | undefined;
}

export type ToTokenThread =
  /** From now on, by model. */
  | { kind: "models"; models: ReadonlyMap<string, TokenizerPaths>; cacheBytes: number }
  | {
    kind: "prompt";
    id: number;
    model: string;
    /** The request's body. */
    body: Uint8Array;
    /** What its keys begin with. */
    cluster: number;
    lora: string;
    salt: string;
    /** How long it is waited for. */
    waitMs: number;
  };

export type FromTokenThread =
  /** Its keys will come, but not as long as they are waited for. */
  | { kind: "late"; id: number }
  /** A tokenizer is in use, or why it is not. */
  | { kind: "model"; model: string; error: string | undefined; incremental: boolean }
  /** Without keys where they cannot be told. */
  | { kind: "keys"; id: number; keys: Uint32Array<ArrayBuffer> | undefined; tokens: number };
