// SPDX-License-Identifier: Apache-2.0
// Error answers in OpenAI's shape, as a body and as an event of a stream.

import { GatewayError } from "../base/errors.ts";

/** `{"error": {"message", "type", "param", "code"}}` */
export function errorBody(error: GatewayError): string {
  const { message, type, param, code } = error;
  return JSON.stringify({ error: { message, type, param, code } });
}

/** The same as a server-sent event. */
export function errorEvent(error: GatewayError): string {
  return `data: ${errorBody(error)}\n\n`;
}
