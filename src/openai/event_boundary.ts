// SPDX-License-Identifier: Apache-2.0
// Holds back the beginning of an event that is not complete yet, so that a stream that breaks can still be ended with a
// well-formed error event: a client cannot use half an event anyway. The bytes and their order stay the same.

import { concat } from "../base/bytes.ts";

const LF = 10;
const CR = 13;

export class EventBoundary {
  #held: Uint8Array<ArrayBuffer> | undefined;

  /** @param maxBytes What has no event end for longer than this passes as it comes. */
  constructor(readonly maxBytes: number) {}

  /** The bytes that may go on now that `piece` has arrived; empty when it only begins an event. */
  push(piece: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
    // Fast path: engines write whole events.
    if (this.#held === undefined && endsEvent(piece, piece.length)) return piece;
    const bytes = this.#held === undefined ? piece : concat([this.#held, piece]);
    const end = lastEventEnd(bytes);
    if (end === bytes.length || bytes.length - end > this.maxBytes) {
      this.#held = undefined;
      return bytes;
    }
    this.#held = bytes.subarray(end);
    return bytes.subarray(0, end);
  }

  /** What is still held: an unfinished event, to be passed on when the stream ended well and dropped when it broke. */
  rest(): Uint8Array<ArrayBuffer> | undefined {
    const rest = this.#held;
    this.#held = undefined;
    return rest;
  }
}

// An event ends with an empty line; lines end with LF or CRLF (a lone CR, which no engine sends, only delays).
function endsEvent(bytes: Uint8Array, end: number): boolean {
  if (end < 2 || bytes[end - 1] !== LF) return false;
  if (bytes[end - 2] === LF) return true;
  return bytes[end - 2] === CR && end >= 3 && bytes[end - 3] === LF;
}

function lastEventEnd(bytes: Uint8Array): number {
  for (let at = bytes.lastIndexOf(LF); at > 0; at = bytes.lastIndexOf(LF, at - 1)) {
    if (endsEvent(bytes, at + 1)) return at + 1;
  }
  return 0;
}
