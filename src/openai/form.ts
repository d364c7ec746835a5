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
  const search = new FormSearch(contentType, name);
  const found = search.look(bytes);
  if (found === "more") throw new GatewayError("invalid_request", search.missing);
  return found;
}

/** Looks for a field in a form that arrives in pieces. Throws GatewayError (invalid_request) for what is no form. */
export class FormSearch {
  readonly #delimiter: Uint8Array;
  /** Where the part begins that is looked at: behind its boundary. */
  #part: number;
  /** Where its value begins, and how far its end has been looked for; -1 while its head is not whole. */
  #value = -1;
  #searched = 0;
  #head = "";
  /** What lacks where the form ends too early. */
  missing = "The request body does not begin with the boundary of its content-type";

  constructor(contentType: string | null, readonly name: string) {
    const boundary = boundaryOf(contentType);
    if (boundary === undefined) {
      throw new GatewayError("invalid_request", "The content-type is to be multipart/form-data with a boundary");
    }
    this.#delimiter = encoder.encode(`--${boundary}`);
    this.#part = 0;
  }

  /**
   * Looks on in all that has arrived.
   * @returns The field; undefined when the form has none; "more" when what is still to come has to be seen.
   */
  look(bytes: Uint8Array): FormField | undefined | "more" {
    if (this.#part === 0 && !this.#begins(bytes)) return "more";
    for (;;) {
      if (bytes[this.#part] === DASH) return undefined;
      if (this.#value < 0 && !this.#readHead(bytes)) return "more";
      const end = this.#endOf(bytes);
      if (end < 0) return "more";
      const start = this.#value;
      if (this.#named() && end - start <= MAX_FIELD_BYTES) {
        return { value: decoder.decode(bytes.subarray(start, end)), start, end };
      }
      this.#part = end + 2 + this.#delimiter.length;
      this.#value = -1;
    }
  }

  #begins(bytes: Uint8Array): boolean {
    const { length } = this.#delimiter;
    if (!startsWith(bytes, this.#delimiter.subarray(0, Math.min(length, bytes.length)), 0)) {
      throw new GatewayError("invalid_request", this.missing);
    }
    if (bytes.length < length) return false;
    this.#part = length;
    return true;
  }

  #readHead(bytes: Uint8Array): boolean {
    this.missing = "A part of the form has no end of its head";
    const end = indexOf(bytes, EMPTY_LINE, this.#part, this.#part + MAX_HEAD_BYTES);
    if (end < 0) {
      if (bytes.length - this.#part >= MAX_HEAD_BYTES) throw new GatewayError("invalid_request", this.missing);
      return false;
    }
    this.#head = decoder.decode(bytes.subarray(this.#part + 2, end));
    this.#value = this.#searched = end + EMPTY_LINE.length;
    return true;
  }

  // Where the value ends: at the line break before the next delimiter; -1 when that has not come.
  #endOf(bytes: Uint8Array): number {
    this.missing = "The form has no end: a part is not followed by its boundary";
    const whole = 2 + this.#delimiter.length;
    for (let at = bytes.indexOf(CR, this.#searched); at >= 0; at = bytes.indexOf(CR, at + 1)) {
      this.#searched = at;
      // What follows a boundary tells another part from the end.
      if (at + whole >= bytes.length) return -1;
      if (bytes[at + 1] === 10 && startsWith(bytes, this.#delimiter, at + 2)) return at;
    }
    this.#searched = bytes.length;
    return -1;
  }

  #named(): boolean {
    const [, name] =
      /^content-disposition:[^\r\n]*;\s*name=(?:"([^"]*)"|([^;\s]+))/im.exec(this.#head)?.filter(Boolean) ??
        [];
    return name === this.name && !/;\s*filename\*?=/i.test(this.#head);
  }
}

const EMPTY_LINE = encoder.encode("\r\n\r\n");

function boundaryOf(contentType: string | null): string | undefined {
  if (!/^multipart\/form-data\s*;/i.test(contentType ?? "")) return undefined;
  const [, quoted, bare] = /;\s*boundary=(?:"([^"]{1,200})"|([^;\s]{1,200}))/i.exec(contentType!) ?? [];
  return quoted ?? bare;
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
