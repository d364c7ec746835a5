// SPDX-License-Identifier: Apache-2.0
// The part of a request's body that has not arrived when its beginning is sent: it goes on as it comes, so that a large
// upload is never held here.

import type { GatewayError } from "../base/errors.ts";

export interface BodyRest {
  /** Bytes that are still to come; undefined when the client did not say. */
  readonly length: number | undefined;
  /** Whether some of it has been taken: then the request cannot be sent a second time. */
  readonly begun: boolean;
  /** Why it broke off, which is its client's doing. */
  readonly failure: GatewayError | undefined;
  /** The next piece; undefined at its end. Throws GatewayError, which `failure` is from then on. */
  next(): Promise<Uint8Array | undefined>;
}
