// SPDX-License-Identifier: Apache-2.0
// Chunked transfer coding (RFC 9112, section 7.1), decoded in place: the data of all chunks that a read brought is moved
// together, so that what goes on is one piece however the bytes were framed or cut.

import { UpstreamError } from "./errors.ts";

const CR = 13;
const LF = 10;
const TAB = 9;
const SPACE = 32;
const SEMICOLON = 59;
const COLON = 58;
const MAX_LINE_BYTES = 16_384;

enum State {
  Size,
  SizeSpace,
  Extension,
  SizeEnd,
  Data,
  DataCr,
  DataLf,
  Trailer,
  TrailerName,
  TrailerLine,
  TrailerLineEnd,
  End,
  Done,
}

export class ChunkedDecoder {
  #state = State.Size;
  #left = 0;
  #digits = 0;
  #lineBytes = 0;
  /** Bytes of the last `decode` that lay beyond the end of the body. */
  excess = 0;

  get done(): boolean {
    return this.#state === State.Done;
  }

  /**
   * Decodes `buffer[start, end)` and moves the data to `buffer[start, …)`; returns where it ends.
   * Throws UpstreamError (bad_response) on anything that is no chunked coding.
   */
  decode(buffer: Uint8Array, start: number, end: number): number {
    let out = start;
    let at = start;
    while (at < end) {
      if (this.#state === State.Data) {
        const n = Math.min(this.#left, end - at);
        if (out !== at) buffer.copyWithin(out, at, at + n);
        out += n;
        at += n;
        this.#left -= n;
        if (this.#left === 0) this.#state = State.DataCr;
        continue;
      }
      if (this.#state === State.Done) break;
      this.#step(buffer[at++]);
    }
    this.excess = end - at;
    return out;
  }

  #step(byte: number): void {
    switch (this.#state) {
      case State.Size: {
        const digit = hexDigit(byte);
        if (digit >= 0) {
          if (++this.#digits > 12) throw bad("a chunk size has too many digits");
          this.#left = this.#left * 16 + digit;
        } else if (this.#digits === 0) throw bad("a chunk has no size");
        else if (byte === CR) this.#state = State.SizeEnd;
        else if (byte === SEMICOLON) this.#state = State.Extension;
        else if (byte === SPACE) this.#state = State.SizeSpace;
        else throw bad("a chunk size is no hexadecimal number");
        break;
      }
      case State.SizeSpace:
        // Some pad the size with spaces, none with tabs, which readers differ on; what follows is an extension or the end of the line.
        this.#countLine();
        if (byte === SEMICOLON) this.#state = State.Extension;
        else if (byte === CR) this.#state = State.SizeEnd;
        else if (byte !== SPACE) throw bad("a chunk size is no hexadecimal number");
        break;
      case State.Extension:
        this.#countLine();
        if (byte === CR) this.#state = State.SizeEnd;
        else if (isControl(byte)) throw bad("a chunk extension has a control character");
        break;
      case State.SizeEnd:
        expect(byte, LF);
        this.#digits = 0;
        this.#lineBytes = 0;
        this.#state = this.#left === 0 ? State.Trailer : State.Data;
        break;
      case State.DataCr:
        expect(byte, CR);
        this.#state = State.DataLf;
        break;
      case State.DataLf:
        expect(byte, LF);
        this.#state = State.Size;
        break;
      case State.Trailer:
        this.#state = byte === CR ? State.End : State.TrailerName;
        if (byte !== CR && !isToken(byte)) throw bad("a trailer has no name");
        break;
      case State.TrailerName:
        this.#countLine();
        if (byte === COLON) this.#state = State.TrailerLine;
        else if (!isToken(byte)) throw bad("a trailer's name has a character that none may have");
        break;
      case State.TrailerLine:
        this.#countLine();
        if (byte === CR) this.#state = State.TrailerLineEnd;
        else if (isControl(byte)) throw bad("a trailer has a control character");
        break;
      case State.TrailerLineEnd:
        expect(byte, LF);
        this.#state = State.Trailer;
        break;
      case State.End:
        expect(byte, LF);
        this.#state = State.Done;
        break;
    }
  }

  #countLine(): void {
    if (++this.#lineBytes > MAX_LINE_BYTES) throw bad("chunk extensions or trailers are longer than 16 KiB");
  }
}

function hexDigit(byte: number): number {
  if (byte >= 48 && byte <= 57) return byte - 48;
  const letter = byte | 32;
  return letter >= 97 && letter <= 102 ? letter - 87 : -1;
}

function isControl(byte: number): boolean {
  return (byte < 32 && byte !== TAB) || byte === 127;
}

/** Characters of a field name (RFC 9110, section 5.6.2). */
function isToken(byte: number): boolean {
  const letter = byte | 32;
  return (letter >= 97 && letter <= 122) || (byte >= 48 && byte <= 57) || OTHERS.includes(byte);
}

const OTHERS: readonly number[] = Array.from("!#$%&'*+-.^_`|~", (character) => character.charCodeAt(0));

function expect(byte: number, wanted: number): void {
  if (byte !== wanted) throw bad("a chunk does not end where its size says");
}

function bad(message: string): UpstreamError {
  return new UpstreamError("bad_response", message);
}
