// SPDX-License-Identifier: Apache-2.0
// Batches that real engines published, as they were captured: what they were decoded to then, and their bytes. Of long ones
// only the beginning of the bytes was kept: these are made of what was decoded.

import { encode } from "@msgpack/msgpack";
import { sharedFiles } from "../support/shared.ts";

export interface CapturedBatch {
  readonly payload: Uint8Array;
  readonly decoded: readonly [
    number,
    readonly (Record<string, unknown> | unknown[])[],
    number | null,
  ];
}

/** The batches of one file, or of all; none, with a message, where the files are not. */
export function captured(file = ""): CapturedBatch[] {
  return sharedFiles("data/kv_events", `${file}.jsonl`).flatMap(({ text }) =>
    text.trim().split("\n").map((line) => {
      const { raw, bytes, decoded } = JSON.parse(line);
      const whole = raw.length === 2 * bytes;
      const payload = whole ? bytesOf(raw) : encode(numbered(decoded), { useBigInt64: true });
      return { payload, decoded };
    })
  );
}

function bytesOf(hex: string): Uint8Array {
  return Uint8Array.from(hex.match(/../g)!, (byte) => parseInt(byte, 16));
}

// Numbers of 64 bits stand there as text.
function numbered(value: unknown): unknown {
  if (typeof value === "string") {
    return /^\d+n$/.test(value) ? BigInt(value.slice(0, -1)) : value;
  }
  if (Array.isArray(value)) return value.map(numbered);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).map(([key, one]) => [key, numbered(one)]),
  );
}
