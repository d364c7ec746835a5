// SPDX-License-Identifier: Apache-2.0
// What the head of a call has to be (RFC 9113, section 8). That it is one of gRPC, its path says.

import { ErrorCode, StreamError } from "./frames.ts";

export interface CallHead {
  /** /SERVICE/METHOD */
  readonly path: string;
  /** Bytes that its body is to have; undefined when it does not say. */
  readonly contentLength: number | undefined;
}

const PSEUDO = new Set([":method", ":scheme", ":path", ":authority"]);
const OF_CONNECTIONS = new Set(["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"]);
const UPPER = /[A-Z]/;

/** Throws StreamError for a head that is malformed. */
export function checkRequest(id: number, fields: readonly string[]): CallHead {
  const malformed = (message: string) => new StreamError(id, ErrorCode.protocol, message);
  const pseudo = new Map<string, string>();
  let regular = false;
  let contentLength: number | undefined;
  for (let i = 0; i < fields.length; i += 2) {
    const [name, value] = [fields[i], fields[i + 1]];
    if (name.startsWith(":")) {
      if (regular || !PSEUDO.has(name) || pseudo.has(name)) throw malformed(`the field ${name} is not to be there`);
      pseudo.set(name, value);
      continue;
    }
    regular = true;
    if (UPPER.test(name)) throw malformed("a field's name is in upper case");
    if (OF_CONNECTIONS.has(name)) throw malformed(`the field ${name} is not of HTTP/2`);
    if (name === "te" && value !== "trailers") throw malformed("te is something else than trailers");
    if (name === "content-length") contentLength = Number(value);
  }
  const path = pseudo.get(":path");
  if (!pseudo.has(":method") || !pseudo.has(":scheme") || !path) throw malformed("a pseudo-header field is missing");
  return { path, contentLength };
}
