// SPDX-License-Identifier: Apache-2.0
// What the supervisor and its workers say to each other. Nothing of it is on the request path.

import type { SharedKernel } from "../../wasm/kernel.ts";
import type { Address } from "../base/address.ts";
import type { Config } from "../config/schema.ts";

/** What every worker is started with. */
export interface WorkerSetup {
  readonly config: Config;
  readonly listen: Address;
  /** The second listener, with HTTPS. */
  readonly tls: { address: Address; cert: string; key: string } | undefined;
  /** Value of `x-aigw-via`. */
  readonly via: string;
  /** When the gateway started, in seconds. */
  readonly started: number;
}

export interface StartWorker extends WorkerSetup {
  kind: "start";
  shared: SharedKernel;
  worker: number;
  seed: number;
}

export type ToWorker =
  | StartWorker
  /** The LoRA adapters that engines hold, with their base models. */
  | { kind: "adapters"; adapters: [adapter: string, model: string][] }
  | { kind: "drain"; deadlineMs: number };

export type FromWorker =
  | { kind: "serving" }
  | { kind: "failed"; message: string }
  | { kind: "drained"; cut: number };
