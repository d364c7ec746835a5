// SPDX-License-Identifier: Apache-2.0
// Frames of a connection, as they come: read into one buffer, and told where they lie in it.

import {
  ConnectionError,
  DEFAULT_FRAME_BYTES,
  ErrorCode,
  Flag,
  FRAME_HEAD_BYTES,
  MAX_WINDOW,
  PREFACE,
  readUint32,
  StreamError,
} from "./frames.ts";

/** Takes a frame; its payload is lent for the time of the call. */
export type TakeFrame = (type: number, flags: number, stream: number, payload: Uint8Array) => void;

export const BUFFER_BYTES = 65_536;

export class FrameReader {
  readonly #buffer = new Uint8Array(BUFFER_BYTES);
  #start = 0;
  #end = 0;

  constructor(readonly socket: Deno.Conn) {}

  /** Reads what a client begins with; false when it leaves instead. Throws ConnectionError. */
  async preface(): Promise<boolean> {
    while (this.#end < PREFACE.length) {
      const known = this.#end;
      if (!await this.read()) return false;
      for (let i = known; i < Math.min(this.#end, PREFACE.length); i++) {
        if (this.#buffer[i] !== PREFACE[i]) throw new ConnectionError(ErrorCode.protocol, "this is no HTTP/2");
      }
    }
    this.#start = PREFACE.length;
    return true;
  }

  /** Reads more; false at the end of what the peer sends. */
  async read(): Promise<boolean> {
    if (this.#start === this.#end) this.#start = this.#end = 0;
    else if (this.#start > BUFFER_BYTES - DEFAULT_FRAME_BYTES - FRAME_HEAD_BYTES) {
      this.#buffer.copyWithin(0, this.#start, this.#end);
      this.#end -= this.#start;
      this.#start = 0;
    }
    const n = await this.socket.read(this.#buffer.subarray(this.#end));
    if (n === null) return false;
    this.#end += n;
    return true;
  }

  /** The next whole frame that has come; false when there is none. Throws ConnectionError, and what `take` throws. */
  next(take: TakeFrame): boolean {
    const buffer = this.#buffer;
    const at = this.#start;
    if (this.#end - at < FRAME_HEAD_BYTES) return false;
    const length = (buffer[at] << 16) | (buffer[at + 1] << 8) | buffer[at + 2];
    if (length > DEFAULT_FRAME_BYTES) throw new ConnectionError(ErrorCode.frameSize, `a frame of ${length} bytes`);
    if (this.#end - at < FRAME_HEAD_BYTES + length) return false;
    this.#start = at + FRAME_HEAD_BYTES + length;
    const payload = buffer.subarray(at + FRAME_HEAD_BYTES, this.#start);
    take(buffer[at + 3], buffer[at + 4], readUint32(buffer, at + 5) & MAX_WINDOW, payload);
    return true;
  }
}

/** A payload without its padding, and without `before` bytes that stand before its content. Throws ConnectionError. */
export function unpadded(flags: number, payload: Uint8Array, before: number): Uint8Array {
  const padding = flags & Flag.padded ? payload[0] ?? 0 : 0;
  const from = (flags & Flag.padded ? 1 : 0) + before;
  if (from + padding > payload.length) {
    const code = payload.length < from ? ErrorCode.frameSize : ErrorCode.protocol;
    throw new ConnectionError(code, "a frame is shorter than its padding");
  }
  return payload.subarray(from, payload.length - padding);
}

/** Whether what a PRIORITY frame, or a head, says of a stream's priority is right; it has no effect. Throws as it is wrong. */
export function checkPriority(stream: number, payload: Uint8Array, length: number): void {
  if (stream === 0) throw new ConnectionError(ErrorCode.protocol, "PRIORITY on the connection");
  if (length !== 5) throw new StreamError(stream, ErrorCode.frameSize, "PRIORITY of a wrong size");
  if (selfDependent(stream, payload)) {
    throw new StreamError(stream, ErrorCode.protocol, "a stream depends on itself");
  }
}

/** Whether a priority says that a stream depends on itself. */
export function selfDependent(stream: number, payload: Uint8Array): boolean {
  return (readUint32(payload, 0) & MAX_WINDOW) === stream;
}
