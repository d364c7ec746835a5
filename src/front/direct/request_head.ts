// SPDX-License-Identifier: Apache-2.0
// The head of a request from anybody: request line, fields, and how the body is framed (RFC 9112, sections 3 to 6). What two
// readers could take for two different requests is refused, and the connection with it.

import { latin1 } from "../../base/latin1.ts";
import type { Fields } from "../http/exchange.ts";

/** A head that is refused: with what status, and why. */
export class HeadError extends Error {
  override readonly name = "HeadError";
  constructor(readonly status: number, message: string) {
    super(message);
  }
}

export interface DirectHead {
  readonly method: string;
  /** Path and query. */
  readonly target: string;
  /** Whether it is of HTTP/1.0. */
  readonly old: boolean;
  readonly fields: Fields;
  /** Bytes of the body; -1 when it comes in chunks. */
  readonly bodyBytes: number;
  /** Whether the client wants the connection kept. */
  readonly keepAlive: boolean;
  /** Whether it waits for a word before it sends the body. */
  readonly expects: boolean;
}

const LF = 10;
const CR = 13;

/**
 * Index just past the empty line that ends a head in `buffer[start, end)`, or -1; what is before `from` has been looked at.
 * Throws HeadError for a line that ends in a line feed alone.
 */
export function endOfHead(buffer: Uint8Array, start: number, from: number, end: number): number {
  for (let i = buffer.indexOf(LF, from); i >= 0 && i < end; i = buffer.indexOf(LF, i + 1)) {
    if (i === start || buffer[i - 1] !== CR) throw new HeadError(400, "a line of the head ends in a bare line feed");
    if (i - start >= 3 && buffer[i - 2] === LF) return i + 1;
  }
  return -1;
}

// deno-lint-ignore no-control-regex -- control characters are what is looked for
const CONTROL = /[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n)/;
const LINE = /^([!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}) ([\x21-\x7e]+) HTTP\/(\d)\.(\d)$/;
const NAME = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/;
const HOST = /^[A-Za-z0-9._~:[\]%-]*$/;
const ABSOLUTE = /^https?:\/\/([^/?#]+)(\/[^#]*)?$/i;

/** Parses a complete head of at most `mostFields` fields. Throws HeadError. */
export function parseRequestHead(buffer: Uint8Array, start: number, end: number, mostFields: number): DirectHead {
  const text = latin1(buffer, start, end);
  if (CONTROL.test(text)) throw new HeadError(400, "the head has a control character");
  const lineEnd = text.indexOf("\r\n");
  const line = LINE.exec(text.slice(0, lineEnd));
  if (line === null) throw new HeadError(400, "the request line is not METHOD TARGET HTTP/1.1");
  const [, method, target, major, minor] = line;
  if (major !== "1") throw new HeadError(505, `HTTP/${major}.${minor} is not spoken here, HTTP/1.1 is`);
  const old = minor === "0";
  const fields = new HeadFields();
  let length: string | undefined;
  let coding: string | undefined;
  let connection: string | undefined;
  let host: string | undefined;
  let expect: string | undefined;
  let count = 0;
  for (let at = lineEnd + 2; at < text.length - 2;) {
    const next = text.indexOf("\r\n", at);
    const colon = text.indexOf(":", at);
    if (colon < 0 || colon > next) throw new HeadError(400, "a line of the head has no colon");
    const name = text.slice(at, colon).toLowerCase();
    // A space before the colon, and a folded line, have a name that none may have.
    if (!NAME.test(name)) throw new HeadError(400, "a field name has a character that none may have");
    if (++count > mostFields) throw new HeadError(431, `the head has more than ${mostFields} fields`);
    const value = text.slice(colon + 1, next).trim();
    at = next + 2;
    if (name === "content-length") {
      if (length !== undefined) throw new HeadError(400, "there are two content-length fields");
      length = value;
    } else if (name === "transfer-encoding") {
      if (coding !== undefined) throw new HeadError(400, "there are two transfer-encoding fields");
      coding = value.toLowerCase();
    } else if (name === "host") {
      if (host !== undefined) throw new HeadError(400, "there are two host fields");
      host = value;
    } else if (name === "connection") connection = connection === undefined ? value : `${connection}, ${value}`;
    else if (name === "expect") expect = value.toLowerCase();
    fields.add(name, value);
  }
  if (host === undefined && !old) throw new HeadError(400, "there is no host field");
  if (host !== undefined && !HOST.test(host)) throw new HeadError(400, "the host field is no host");
  const bodyBytes = framing(length, coding, old);
  if (expect !== undefined && expect !== "100-continue") throw new HeadError(417, "only 100-continue can be expected");
  return {
    method,
    target: pathOfTarget(target, host),
    old,
    fields,
    bodyBytes,
    keepAlive: keepsAlive(connection, old),
    expects: expect !== undefined && !old && bodyBytes !== 0,
  };
}

function framing(length: string | undefined, coding: string | undefined, old: boolean): number {
  if (coding !== undefined) {
    if (length !== undefined) throw new HeadError(400, "there is a content-length beside a transfer-encoding");
    if (old) throw new HeadError(400, "HTTP/1.0 has no transfer-encoding");
    if (coding !== "chunked") throw new HeadError(501, "only chunked is known as a transfer-encoding");
    return -1;
  }
  if (length === undefined) return 0;
  if (!/^\d{1,15}$/.test(length)) throw new HeadError(400, "the content-length is no length");
  return Number(length);
}

function keepsAlive(connection: string | undefined, old: boolean): boolean {
  if (connection === undefined) return !old;
  const tokens = connection.toLowerCase().split(",").map((token) => token.trim());
  if (tokens.includes("close")) return false;
  return !old || tokens.includes("keep-alive");
}

// Proxies write the whole URL; CONNECT and OPTIONS * have no path, and none here takes them.
function pathOfTarget(target: string, host: string | undefined): string {
  if (target.startsWith("/")) return target;
  const [, authority, path = "/"] = ABSOLUTE.exec(target) ?? [];
  if (authority === undefined) throw new HeadError(400, "the target is neither a path nor an http URL");
  if (host !== undefined && host.toLowerCase() !== authority.toLowerCase()) {
    throw new HeadError(400, "the target and the host field name two hosts");
  }
  return path;
}

class HeadFields implements Fields {
  readonly #names: string[] = [];
  readonly #values: string[] = [];

  add(name: string, value: string): void {
    const at = this.#names.indexOf(name);
    if (at < 0) {
      this.#names.push(name);
      this.#values.push(value);
    } else this.#values[at] += (name === "cookie" ? "; " : ", ") + value;
  }

  get(name: string): string | null {
    const at = this.#names.indexOf(name);
    return at < 0 ? null : this.#values[at];
  }

  forEach(visit: (value: string, name: string) => void): void {
    for (let i = 0; i < this.#names.length; i++) visit(this.#values[i], this.#names[i]);
  }
}
