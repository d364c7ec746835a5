// SPDX-License-Identifier: Apache-2.0
// What the supervisor and its workers say to each other. Nothing of it is on the request path.

import type { SharedKernel } from "../../wasm/kernel.ts";
import type { Address } from "../base/address.ts";
import type { ShownDecision } from "../gateway/decision_watch.ts";
import type { Snapshot } from "../config/snapshot.ts";

/** A certificate chain and its key, as PEM. */
export interface Certificate {
  readonly cert: string;
  readonly key: string;
}

/** What every worker is started with. */
export interface WorkerSetup {
  readonly listen: Address;
  /** Further ones, and what serves there. */
  readonly listeners: readonly { readonly address: Address; readonly server: "direct" | "serve" }[];
  /** The listener with HTTPS. */
  readonly tls: Address | undefined;
  /** Where Envoy asks. */
  readonly extProc: Address | undefined;
  /** Value of `x-aigw-via`. */
  readonly via: string;
  /** Its name at the metadata center. */
  readonly gateway: string;
  /** URL of the admin's page. */
  readonly admin: string;
  /** When the gateway started, in seconds. */
  readonly started: number;
}

export interface StartWorker extends WorkerSetup {
  kind: "start";
  shared: SharedKernel;
  worker: number;
  seed: number;
  snapshot: Snapshot;
  certificate: Certificate | undefined;
}

export type ToWorker =
  | StartWorker
  /** What is in force from now on. */
  | { kind: "snapshot"; snapshot: Snapshot }
  /** The HTTPS listener's certificate from now on. */
  | { kind: "certificate"; certificate: Certificate }
  /** Clients are asked to go elsewhere from now on: it is going to be drained. */
  | { kind: "leave" }
  | { kind: "drain"; deadlineMs: number }
  /** Whether decisions are to be told. */
  | { kind: "watch"; open: boolean };

export type FromWorker =
  | { kind: "serving" }
  | { kind: "failed"; message: string }
  /** A certificate is in use, or cannot be. */
  | { kind: "certificate"; error: string | null }
  | { kind: "drained"; cut: number }
  | { kind: "decision"; decision: ShownDecision };
