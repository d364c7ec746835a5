// SPDX-License-Identifier: Apache-2.0
// The head of an HTTP/1.1 response: status line, fields, and how the body is framed (RFC 9112, section 6.3).

import { latin1 } from "../base/latin1.ts";
import { UpstreamError } from "./errors.ts";

export type Framing = { kind: "none" } | { kind: "length"; bytes: number } | { kind: "chunked" } | { kind: "close" };

export interface ResponseHead {
  status: number;
  /** End-to-end fields, names in lower case, in order. */
  headers: [name: string, value: string][];
  framing: Framing;
  /** Whether the connection may carry another request after this answer. */
  keepAlive: boolean;
  /** How long the engine says that it keeps the connection when it is idle, in ms. */
  readonly keepAliveMs?: number;
}

const HOP_BY_HOP = new Set([
  "connection",
  "proxy-authenticate",
  "proxy-connection",
  "te",
  "trailer",
  "transfer-encoding",
  "upgrade",
  "content-length",
]);

// The server that passes fields on must never see one of these: a tab is all that a value may have.
// deno-lint-ignore no-control-regex -- control characters are what is looked for
const CONTROL = /[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n)|(?<!\r)\n/;

/** Index just past the empty line that ends a head in `buffer[from, end)`, or -1. */
export function headEnd(buffer: Uint8Array, from: number, end: number): number {
  for (let i = buffer.indexOf(10, from); i >= 0 && i < end; i = buffer.indexOf(10, i + 1)) {
    if (i >= 3 && buffer[i - 1] === 13 && buffer[i - 2] === 10 && buffer[i - 3] === 13) return i + 1;
  }
  return -1;
}

/** Parses a complete head. Throws UpstreamError (bad_response) when it is none. */
export function parseResponseHead(buffer: Uint8Array, start: number, end: number): ResponseHead {
  const text = latin1(buffer, start, end);
  if (CONTROL.test(text)) throw bad("the response head has a control character");
  const status = /^HTTP\/1\.([01]) ([1-5]\d\d)(?: |\r)/.exec(text);
  if (!status) throw bad("the answer does not begin with an HTTP/1.1 status line");
  const code = Number(status[2]);
  let keepAlive = status[1] === "1";
  let keepAliveMs: number | undefined;
  let length: number | undefined;
  let coding: string | undefined;
  let named: string[] | undefined;
  const headers: [string, string][] = [];
  let at = text.indexOf("\r\n") + 2;
  while (at < text.length - 2) {
    const lineEnd = text.indexOf("\r\n", at);
    const colon = text.indexOf(":", at);
    if (colon <= at || colon >= lineEnd) throw bad("a header line has no name");
    const name = text.slice(at, colon).toLowerCase();
    const value = text.slice(colon + 1, lineEnd).trim();
    if (!/^[!#$%&'*+.^_`|~0-9a-z-]+$/.test(name)) throw bad("a header name has a character that none may have");
    at = lineEnd + 2;
    if (name === "content-length") {
      const bytes = /^\d{1,15}$/.test(value) ? Number(value) : NaN;
      if (Number.isNaN(bytes) || (length !== undefined && length !== bytes)) {
        throw bad("the content-length is no length");
      }
      length = bytes;
    } else if (name === "transfer-encoding") {
      coding = (coding === undefined ? "" : `${coding},`) + value.toLowerCase();
    } else if (name === "connection") {
      named = value.toLowerCase().split(",").map((token) => token.trim());
      if (named.includes("close")) keepAlive = false;
      else if (named.includes("keep-alive")) keepAlive = true;
    } else if (name === "keep-alive") keepAliveMs = keepAliveOf(value);
    else if (!HOP_BY_HOP.has(name)) headers.push([name, value]);
  }
  const kept = named === undefined ? headers : headers.filter(([name]) => !named.includes(name));
  const framing = framingOf(code, coding, length);
  if (framing.kind === "close" || (coding !== undefined && length !== undefined)) keepAlive = false;
  return keepAliveMs === undefined
    ? { status: code, headers: kept, framing, keepAlive }
    : { status: code, headers: kept, framing, keepAlive, keepAliveMs };
}

// `timeout=SECONDS` of a Keep-Alive field.
function keepAliveOf(value: string): number | undefined {
  const seconds = /(?:^|[,\s])timeout\s*=\s*"?(\d{1,6})/i.exec(value)?.[1];
  return seconds === undefined ? undefined : Number(seconds) * 1_000;
}

function framingOf(status: number, coding: string | undefined, length: number | undefined): Framing {
  if (status < 200 || status === 204 || status === 304) return { kind: "none" };
  if (coding !== undefined) {
    if (coding === "chunked") return { kind: "chunked" };
    throw bad(`the transfer-encoding "${coding}" was not asked for`);
  }
  if (length !== undefined) return { kind: "length", bytes: length };
  return { kind: "close" };
}

function bad(message: string): UpstreamError {
  return new UpstreamError("bad_response", message);
}
