// SPDX-License-Identifier: Apache-2.0

/** Bytes as text, a character each: heads of HTTP are bytes. */
export function latin1(buffer: Uint8Array, start: number, end: number): string {
  let text = "";
  for (let at = start; at < end; at += 4_096) {
    text += String.fromCharCode.apply(null, buffer.subarray(at, Math.min(end, at + 4_096)) as unknown as number[]);
  }
  return text;
}
