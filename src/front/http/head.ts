// SPDX-License-Identifier: Apache-2.0
// What the head of a request must be before anything of it goes to an engine.

import { GatewayError } from "../../base/errors.ts";
import type { Config } from "../../config/schema.ts";
import type { Call } from "../../gateway/call.ts";

/** Visible ASCII: what a path and query are made of when the rest is percent-encoded (RFC 3986). */
const TARGET = /^\/[\x21-\x7e]*$/;

/**
 * The target of a request whose head is right. Throws GatewayError: invalid_request, url_too_long, headers_too_large.
 * The runtime hands on what a client wrote as it is: characters that would end a line or a request further on are
 * refused here, and so is a Host that would be taken for a part of the path.
 */
export function checkHead(call: Call, target: string, limits: Config["limits"]): string {
  const incoming = call.incoming.fields;
  if (target.length > limits.url_bytes) {
    throw new GatewayError("url_too_long", `Path and query are longer than ${limits.url_bytes} bytes`);
  }
  if (!TARGET.test(target) || !incoming.plainHost) {
    const what = incoming.plainHost ? "The path or the query" : "The Host field";
    throw new GatewayError("invalid_request", `${what} has a character that it may not have unless percent-encoded`);
  }
  if (incoming.fields.length > limits.endpoint_header_bytes) {
    const message = `The request headers are larger than ${limits.endpoint_header_bytes} bytes`;
    throw new GatewayError("headers_too_large", message);
  }
  call.checkTimes();
  return target;
}
