// SPDX-License-Identifier: Apache-2.0
// The head of the request to an engine: the client's end-to-end fields, our host and length (RFC 9110, section 7.6).

import { assert } from "../base/assert.ts";

// Fields of the client's connection, and its codings: an answer that is looked into must not be compressed.
const NOT_FORWARDED = new Set([
  "accept-encoding",
  "cookie", // of whoever serves pages at this address
  "expect",
  "keep-alive",
  "proxy-authorization",
  "proxy-connection",
  "te",
  "trailer",
  "transfer-encoding",
  "upgrade",
]);

const HOST = /^[A-Za-z0-9._~:[\]%-]*$/;

const encoder = new TextEncoder();

/** What the gateway takes from a client's header fields, in one pass over them. */
export interface IncomingFields {
  /** The client's `x-request-id`, or a new one. */
  readonly requestId: string;
  readonly contentLength: string | null;
  /** Whether the Host field is a host and nothing else. */
  readonly plainHost: boolean;
  /** The coding of the body; undefined for none. */
  readonly contentEncoding: string | undefined;
  /** The client's `x-aigw-timeout-ms`. */
  readonly timeoutMs: string | undefined;
  /** The client's `x-aigw-ttft-slo-ms` and `x-aigw-tpot-slo-ms`. */
  readonly ttftSloMs: string | undefined;
  readonly tpotSloMs: string | undefined;
  readonly authorization: string | undefined;
  readonly apiKey: string | undefined;
  /** Who the client says it is, and what priority it asks for. */
  readonly tenant: string | undefined;
  readonly priority: string | undefined;
  /** Where a browser's page came from. */
  readonly origin: string | undefined;
  /** The part of the head to an engine that is the same for every attempt: everything but credentials, host and length. */
  readonly fields: string;
  /** The client's own credentials, for engines to which the config lets them go on. */
  readonly credentials: string;
}

/** A client's header fields, by lower-case name. */
export interface RequestFields {
  get(name: string): string | null;
  forEach(visit: (value: string, name: string) => void): void;
}

/** Which header fields are the gateway's own business. */
export interface OwnFields {
  readonly tenant: readonly string[];
  readonly priority: readonly string[];
  /** Whether keys are for the gateway: then engines do not see them. */
  readonly keys: boolean;
}

export function readIncoming(headers: RequestFields, own: OwnFields): IncomingFields {
  let requestId = undefined as string | undefined;
  let contentLength = null as string | null;
  let connection = undefined as string | undefined;
  let timeoutMs = undefined as string | undefined;
  let origin = undefined as string | undefined;
  let ttftSloMs = undefined as string | undefined;
  let tpotSloMs = undefined as string | undefined;
  let authorization = undefined as string | undefined;
  let apiKey = undefined as string | undefined;
  let tenant = undefined as string | undefined;
  let priority = undefined as string | undefined;
  let plainHost = true;
  let contentEncoding = undefined as string | undefined;
  let fields = "";
  let credentials = "";
  // forEach costs half of what an iterator does here.
  headers.forEach((value, name) => {
    if (name === "x-request-id") requestId = value;
    else if (name === "content-length") contentLength = value;
    else if (name === "connection") connection = value;
    else if (name === "content-encoding") contentEncoding = value;
    else if (name === "host") plainHost = HOST.test(value);
    else if (name === "x-aigw-timeout-ms") timeoutMs = value;
    else if (name === "x-aigw-ttft-slo-ms") ttftSloMs = value;
    else if (name === "x-aigw-tpot-slo-ms") tpotSloMs = value;
    else if (own.tenant.includes(name)) tenant = firstOf(own.tenant, headers) ?? value;
    else if (own.priority.includes(name)) priority = firstOf(own.priority, headers) ?? value;
    else if (own.keys && name === "authorization") authorization = value;
    else if (own.keys && name === "x-api-key") apiKey = value;
    else if (name === "authorization" || name === "x-api-key") credentials += `${name}: ${value}\r\n`;
    else if (!NOT_FORWARDED.has(name)) {
      if (name === "origin") origin = value;
      fields += `${name}: ${value}\r\n`;
    }
  });
  if (connection !== undefined && connection !== "keep-alive" && connection !== "close") {
    fields = withoutNamed(fields, connection);
    credentials = withoutNamed(credentials, connection);
  }
  requestId ??= crypto.randomUUID();
  return {
    requestId,
    contentLength,
    plainHost,
    contentEncoding,
    timeoutMs,
    ttftSloMs,
    tpotSloMs,
    authorization,
    apiKey,
    tenant,
    priority,
    origin,
    credentials,
    fields: `${fields}x-request-id: ${requestId}\r\n`,
  };
}

// Of several fields for one thing, the one that the config names first.
function firstOf(names: readonly string[], headers: RequestFields): string | undefined {
  for (const name of names) {
    const value = headers.get(name);
    if (value !== null) return value;
  }
}

// Rare: the client named further fields of its own connection.
function withoutNamed(fields: string, connection: string): string {
  const named = connection.toLowerCase().split(",").map((token) => token.trim()).filter((token) => token !== "");
  const lines = fields.split("\r\n").filter((line) => !named.includes(line.slice(0, Math.max(0, line.indexOf(":")))));
  return lines.join("\r\n");
}

export interface RequestHeadParts {
  readonly method: string;
  readonly path: string;
  /** The endpoint's HOST:PORT. */
  readonly host: string;
  /** Lines, as `readIncoming` gives them. */
  readonly fields: string;
  /** Length of the body; undefined when it is not known: it goes in chunks. */
  readonly bodyBytes: number | undefined;
}

/** The text of a request head. */
export function requestHead({ method, path, host, fields, bodyBytes }: RequestHeadParts): string {
  const framing = bodyBytes === undefined ? "transfer-encoding: chunked" : `content-length: ${bodyBytes}`;
  return `${method} ${path} HTTP/1.1\r\nhost: ${host}\r\n${fields}${framing}\r\n\r\n`;
}

/** Writes a head to `buffer`, which has room for it, one byte a character; returns its length. */
export function writeHead(text: string, buffer: Uint8Array): number {
  const { read, written } = encoder.encodeInto(text, buffer);
  // Header values are bytes: what is beyond ASCII must not become UTF-8.
  if (read !== text.length || written !== text.length) {
    for (let i = 0; i < text.length; i++) {
      const code = text.charCodeAt(i);
      assert(code <= 0xff, "a request head is bytes");
      buffer[i] = code;
    }
  }
  return text.length;
}
