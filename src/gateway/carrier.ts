// SPDX-License-Identifier: Apache-2.0
// Who carries a request to the engine of its grant where that is not the gateway itself: a proxy that asks the gateway where
// to, and shows it the answer.

import type { Opened } from "../engines/engine.ts";
import type { EndpointRef } from "../tables/endpoint_directory.ts";
import type { BodyRest } from "../upstream/body_rest.ts";
import type { Waiting } from "./cancellation.ts";

/** A request as the engine is to get it. */
export interface Carried {
  readonly endpoint: EndpointRef;
  /** Where it may go instead if it cannot be brought there, the best first. */
  readonly others: readonly EndpointRef[];
  /** Path and query, with the cluster's base path. */
  readonly path: string;
  /** End-to-end header fields and credentials, a line each. */
  readonly fields: string;
  readonly body: Uint8Array<ArrayBuffer>;
  /** What of its body is still to come. */
  readonly rest: BodyRest | undefined;
}

export interface Carrier {
  /** HOST:PORTs of the endpoints that it may bring it to; undefined for all. */
  readonly among: readonly string[] | undefined;
  /** How many others it is told beside the endpoint. */
  readonly fallbacks: number;
  /** Whether the client gets the answer as the gateway makes it; else as the engine did. */
  readonly rewrites: boolean;
  /** Resolves with the engine's answer. Throws UpstreamError, and what it is made to fail with. */
  send(carried: Carried, waitsFor: (waiting: Waiting) => void): Promise<Opened>;
}
