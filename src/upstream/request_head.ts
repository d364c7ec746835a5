// SPDX-License-Identifier: Apache-2.0
// The head of the request to an engine: the client's end-to-end fields, our host and length (RFC 9110, section 7.6).

const NOT_FORWARDED = new Set([
  "connection",
  "content-length",
  "expect",
  "host",
  "keep-alive",
  "proxy-authorization",
  "proxy-connection",
  "te",
  "trailer",
  "transfer-encoding",
  "upgrade",
]);

const encoder = new TextEncoder();

/** The part of the head that is the same for every attempt: everything but the host. */
export function forwardedFields(headers: Headers, requestId: string): string {
  let text = "";
  let named: string[] | undefined;
  const connection = headers.get("connection");
  if (connection !== null && connection !== "keep-alive" && connection !== "close") {
    named = connection.toLowerCase().split(",").map((token) => token.trim());
  }
  for (const [name, value] of headers) {
    if (NOT_FORWARDED.has(name) || name === "x-request-id" || named?.includes(name)) continue;
    text += `${name}: ${value}\r\n`;
  }
  return `${text}x-request-id: ${requestId}\r\n`;
}

/** The bytes of a request head. `fields` comes from `forwardedFields`; `host` is the endpoint's HOST:PORT. */
export function requestHead(method: string, path: string, host: string, fields: string, bodyBytes: number): Uint8Array {
  const text = `${method} ${path} HTTP/1.1\r\nhost: ${host}\r\n${fields}content-length: ${bodyBytes}\r\n\r\n`;
  const bytes = new Uint8Array(text.length);
  const { read, written } = encoder.encodeInto(text, bytes);
  // Header values are bytes: what is beyond ASCII must not become UTF-8.
  if (read !== text.length || written !== text.length) {
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  }
  return bytes;
}
