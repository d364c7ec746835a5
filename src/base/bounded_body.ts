// SPDX-License-Identifier: Apache-2.0

import { concat } from "./bytes.ts";

/** The body of a request; undefined when it is larger than `mostBytes`: no more than that is read. */
export async function boundedBody(
  { body, headers }: Pick<Request, "body" | "headers">,
  mostBytes: number,
): Promise<Uint8Array<ArrayBuffer> | undefined> {
  if (Number(headers.get("content-length") ?? 0) > mostBytes) return undefined;
  const pieces: Uint8Array[] = [];
  let length = 0;
  for await (const piece of body ?? []) {
    length += piece.length;
    if (length > mostBytes) return undefined;
    pieces.push(piece);
  }
  return concat(pieces);
}
