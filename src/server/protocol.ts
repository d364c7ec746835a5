// SPDX-License-Identifier: Apache-2.0
// What the supervisor and its workers say to each other. Nothing of it is on the request path.

import type { SharedKernel } from "../../wasm/kernel.ts";
import type { Address } from "../base/address.ts";
import type { Config } from "../config/schema.ts";

export type ToWorker =
  | { kind: "start"; shared: SharedKernel; worker: number; seed: number; config: Config; listen: Address; via: string }
  | { kind: "drain"; deadlineMs: number };

export type FromWorker =
  | { kind: "serving" }
  | { kind: "failed"; message: string }
  | { kind: "drained"; cut: number };
