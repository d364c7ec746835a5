// SPDX-License-Identifier: Apache-2.0
// HTTP/2 frames (RFC 9113): their numbers, and writing them to a buffer that leaves as a whole.

export const FrameType = {
  data: 0,
  headers: 1,
  priority: 2,
  resetStream: 3,
  settings: 4,
  pushPromise: 5,
  ping: 6,
  goAway: 7,
  windowUpdate: 8,
  continuation: 9,
} as const;

export const Flag = { endStream: 1, ack: 1, endHeaders: 4, padded: 8, priority: 32 } as const;

export const Setting = {
  headerTableSize: 1,
  enablePush: 2,
  maxConcurrentStreams: 3,
  initialWindowSize: 4,
  maxFrameSize: 5,
  maxHeaderListSize: 6,
} as const;

export const ErrorCode = {
  none: 0,
  protocol: 1,
  internal: 2,
  flowControl: 3,
  streamClosed: 5,
  frameSize: 6,
  refusedStream: 7,
  cancel: 8,
  compression: 9,
  enhanceYourCalm: 11,
} as const;

export const PREFACE = new TextEncoder().encode("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
export const FRAME_HEAD_BYTES = 9;
/** What either side's frames may hold unless it says more. */
export const DEFAULT_FRAME_BYTES = 16_384;
export const DEFAULT_WINDOW = 65_535;
export const MAX_WINDOW = 2 ** 31 - 1;

/** The peer broke the protocol: the connection ends. */
export class ConnectionError extends Error {
  override readonly name = "ConnectionError";
  constructor(readonly code: number, message: string) {
    super(message);
  }
}

/** The peer broke the protocol on one stream, which is reset. */
export class StreamError extends Error {
  override readonly name = "StreamError";
  constructor(readonly stream: number, readonly code: number, message: string) {
    super(message);
  }
}

const FIRST_BYTES = 16_384;
/** A buffer that once had to be larger is not kept. */
const KEPT_BYTES = 262_144;

/** Frames that are to leave. */
export class FrameWriter {
  #buffer = new Uint8Array(FIRST_BYTES);
  #spare: Uint8Array<ArrayBuffer> | undefined;
  #end = 0;

  get bytes(): number {
    return this.#end;
  }

  /** Room for a frame's payload behind its head. */
  frame(type: number, flags: number, stream: number, length: number): Uint8Array {
    const at = this.#end;
    this.#reserve(FRAME_HEAD_BYTES + length);
    const buffer = this.#buffer;
    buffer[at] = length >>> 16;
    buffer[at + 1] = length >>> 8;
    buffer[at + 2] = length;
    buffer[at + 3] = type;
    buffer[at + 4] = flags;
    writeUint32(buffer, at + 5, stream);
    return buffer.subarray(at + FRAME_HEAD_BYTES, at + FRAME_HEAD_BYTES + length);
  }

  settings(values: readonly (readonly [setting: number, value: number])[]): void {
    const payload = this.frame(FrameType.settings, 0, 0, 6 * values.length);
    values.forEach(([setting, value], i) => {
      payload[6 * i + 1] = setting;
      writeUint32(payload, 6 * i + 2, value);
    });
  }

  windowUpdate(stream: number, bytes: number): void {
    writeUint32(this.frame(FrameType.windowUpdate, 0, stream, 4), 0, bytes);
  }

  reset(stream: number, code: number): void {
    writeUint32(this.frame(FrameType.resetStream, 0, stream, 4), 0, code);
  }

  goAway(last: number, code: number): void {
    const payload = this.frame(FrameType.goAway, 0, 0, 8);
    writeUint32(payload, 0, last);
    writeUint32(payload, 4, code);
  }

  /** All that is to leave; it is the writer's again with `giveBack`. */
  take(): Uint8Array<ArrayBuffer> {
    const taken = this.#buffer.subarray(0, this.#end);
    this.#buffer = this.#spare ?? new Uint8Array(FIRST_BYTES);
    this.#spare = undefined;
    this.#end = 0;
    return taken;
  }

  giveBack(taken: Uint8Array<ArrayBuffer>): void {
    if (taken.buffer.byteLength <= KEPT_BYTES) this.#spare = new Uint8Array(taken.buffer);
  }

  #reserve(bytes: number): void {
    const end = this.#end + bytes;
    if (end > this.#buffer.length) {
      const larger = new Uint8Array(Math.max(end, 2 * this.#buffer.length));
      larger.set(this.#buffer.subarray(0, this.#end));
      this.#buffer = larger;
    }
    this.#end = end;
  }
}

export function writeUint32(target: Uint8Array, at: number, value: number): void {
  target[at] = value >>> 24;
  target[at + 1] = value >>> 16;
  target[at + 2] = value >>> 8;
  target[at + 3] = value;
}

export function readUint32(source: Uint8Array, at: number): number {
  return ((source[at] << 24) | (source[at + 1] << 16) | (source[at + 2] << 8) | source[at + 3]) >>> 0;
}
