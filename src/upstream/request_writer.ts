// SPDX-License-Identifier: Apache-2.0
// Writes request bodies to an engine's socket, those that are still arriving too.

import type { BodyRest } from "./body_rest.ts";

const encoder = new TextEncoder();
const CRLF = encoder.encode("\r\n");
const LAST_CHUNK = encoder.encode("0\r\n\r\n");

export async function writeAll(socket: Deno.Conn, bytes: Uint8Array): Promise<void> {
  let written = await socket.write(bytes);
  while (written < bytes.length) written += await socket.write(bytes.subarray(written));
}

/**
 * Writes the beginning of a body and all that follows it, in chunks where its length is not known. `turn` is told whose
 * turn it is: the engine's, which is to take a piece, or the client's.
 */
export async function writeArriving(
  socket: Deno.Conn,
  begin: Uint8Array,
  rest: BodyRest,
  turn: (whose: "engine" | "client") => void,
): Promise<void> {
  const chunked = rest.length === undefined;
  for (let piece: Uint8Array | undefined = begin; piece !== undefined; piece = await rest.next()) {
    turn("engine");
    if (piece.length > 0) {
      if (chunked) await writeAll(socket, encoder.encode(`${piece.length.toString(16)}\r\n`));
      await writeAll(socket, piece);
      if (chunked) await writeAll(socket, CRLF);
    }
    turn("client");
  }
  turn("engine");
  if (chunked) await writeAll(socket, LAST_CHUNK);
}
