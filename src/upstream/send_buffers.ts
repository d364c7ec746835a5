// SPDX-License-Identifier: Apache-2.0
// Buffers of this thread that requests and answers leave from; one is in use only while its write is under way. As many
// are kept as connections write at once: a fresh one has to be zeroed, and collected.

/** What is no larger leaves in one write. */
export const SEND_BYTES = 32_768;
const KEPT = 256;
const kept: Uint8Array<ArrayBuffer>[] = [];

export function borrow(): Uint8Array<ArrayBuffer> {
  return kept.pop() ?? new Uint8Array(SEND_BYTES);
}

export function giveBack(buffer: Uint8Array<ArrayBuffer>): void {
  if (kept.length < KEPT) kept.push(buffer);
}

/** Writes `buffer[0, length)`. */
export async function writeFully(socket: Deno.Conn, buffer: Uint8Array, length: number): Promise<void> {
  let written = await socket.write(length === buffer.length ? buffer : buffer.subarray(0, length));
  while (written < length) written += await socket.write(buffer.subarray(written, length));
}
