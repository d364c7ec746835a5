// SPDX-License-Identifier: Apache-2.0
// The fields of a multipart form that the gateway needs (RFC 7578): which model, and where its name stands. Files are
// stepped over, not looked into.

import { GatewayError } from "../base/errors.ts";

export interface FormField {
  readonly value: string;
  /** Byte range of the value. */
  readonly start: number;
  readonly end: number;
}

/** Longest value of a field that is read. */
const MAX_FIELD_BYTES = 4_096;
/** Longest head of a part. */
const MAX_HEAD_BYTES = 8_192;
const CR = 13;
const DASH = 45;
const decoder = new TextDecoder();
const encoder = new TextEncoder();

/** The first field of this name; undefined when there is none. Throws GatewayError (invalid_request) for no such form. */
export function formField(bytes: Uint8Array, contentType: string | null, name: string): FormField | undefined {
  const boundary = boundaryOf(contentType);
  if (boundary === undefined) {
    throw new GatewayError("invalid_request", "The content-type is to be multipart/form-data with a boundary");
  }
  const delimiter = encoder.encode(`--${boundary}`);
  if (!startsWith(bytes, delimiter, 0)) {
    throw new GatewayError("invalid_request", "The request body does not begin with the boundary of its content-type");
  }
  for (let at = delimiter.length; at < bytes.length && bytes[at] !== DASH;) {
    const headStart = at + 2;
    const headEnd = indexOf(bytes, EMPTY_LINE, at, Math.min(bytes.length, at + MAX_HEAD_BYTES));
    if (headEnd < 0) throw new GatewayError("invalid_request", "A part of the form has no end of its head");
    const head = decoder.decode(bytes.subarray(headStart, headEnd));
    const start = headEnd + EMPTY_LINE.length;
    const end = endOf(bytes, delimiter, start);
    const [, found] = /^content-disposition:[^\r\n]*;\s*name=(?:"([^"]*)"|([^;\s]+))/im.exec(head)?.filter(Boolean) ??
      [];
    if (found === name && end - start <= MAX_FIELD_BYTES && !/;\s*filename\*?=/i.test(head)) {
      return { value: decoder.decode(bytes.subarray(start, end)), start, end };
    }
    at = end + 2 + delimiter.length;
  }
  return undefined;
}

const EMPTY_LINE = encoder.encode("\r\n\r\n");

function boundaryOf(contentType: string | null): string | undefined {
  if (!/^multipart\/form-data\s*;/i.test(contentType ?? "")) return undefined;
  const [, quoted, bare] = /;\s*boundary=(?:"([^"]{1,200})"|([^;\s]{1,200}))/i.exec(contentType!) ?? [];
  return quoted ?? bare;
}

// Where the value that begins at `start` ends: at the line break before the next delimiter.
function endOf(bytes: Uint8Array, delimiter: Uint8Array, start: number): number {
  for (let at = bytes.indexOf(CR, start); at >= 0; at = bytes.indexOf(CR, at + 1)) {
    if (bytes[at + 1] === 10 && startsWith(bytes, delimiter, at + 2)) return at;
  }
  throw new GatewayError("invalid_request", "The form has no end: a part is not followed by its boundary");
}

function startsWith(bytes: Uint8Array, wanted: Uint8Array, at: number): boolean {
  if (at + wanted.length > bytes.length) return false;
  for (let i = 0; i < wanted.length; i++) if (bytes[at + i] !== wanted[i]) return false;
  return true;
}

function indexOf(bytes: Uint8Array, wanted: Uint8Array, from: number, to: number): number {
  for (let at = bytes.indexOf(wanted[0], from); at >= 0 && at < to; at = bytes.indexOf(wanted[0], at + 1)) {
    if (startsWith(bytes, wanted, at)) return at;
  }
  return -1;
}
