// SPDX-License-Identifier: Apache-2.0

/** Bytes that a text takes in UTF-8, from index `from` on. */
export function utf8Length(text: string, from = 0): number {
  let bytes = text.length - from;
  for (let i = from; i < text.length; i++) {
    const code = text.charCodeAt(i);
    // A surrogate is half of a pair of four bytes.
    if (code >= 0x80) bytes += code < 0x800 || (code >= 0xd800 && code < 0xe000) ? 1 : 2;
  }
  return bytes;
}
