// SPDX-License-Identifier: Apache-2.0
// Reads a chat's body in the kernel, where it can: what the gateway decides by, and the prompt text, which is then where
// prompts are hashed. What the kernel skips, tools and the messages that call them, is parsed here, once: clients send
// the same ones with every turn. The body itself is parsed only if somebody asks for the rest of it.

import type { AttachedKernel } from "../../wasm/kernel.ts";
import { messageText, toolsText } from "../openai/prompt_text.ts";
import { decodeRequest, type InferenceRequest, isMedia } from "../openai/request.ts";

/** A prompt text that stands in the kernel's scratch until another one does. */
export class ScannedPrompt {
  /** @param bytes Its length. @param text The same text, made anew: for when it does not stand there any more. */
  constructor(readonly bytes: number, readonly text: () => string) {}
}

/** What the kernel took from a body. */
class ScannedRequest implements InferenceRequest {
  readonly kind = "chat";
  readonly cacheSalt = undefined;
  readonly previousResponse = undefined;
  #whole: InferenceRequest | undefined;

  constructor(
    readonly bytes: Uint8Array,
    readonly model: string,
    readonly stream: boolean,
    readonly maxTokens: number | undefined,
    readonly choices: number,
    readonly streamOptions: unknown,
    readonly plainText: boolean,
  ) {}

  /** As parsed, which nobody needs but in passing. */
  get whole(): InferenceRequest {
    return this.#whole ??= decodeRequest("chat", this.bytes);
  }

  get body(): InferenceRequest["body"] {
    return this.whole.body;
  }
}

/** Something that the kernel skipped, and its text. */
interface Piece {
  readonly source: Uint8Array;
  readonly text: Uint8Array;
  readonly media: boolean;
}

/** Bytes of pieces that are kept, and what one costs beside its own. */
const KEPT_BYTES = 8 * 1024 * 1024;
const PIECE_BYTES = 200;
const decoder = new TextDecoder();
const encoder = new TextEncoder();

export class BodyScanner {
  readonly #kernel: AttachedKernel;
  readonly #body: Uint8Array;
  readonly #text: Uint8Array;
  readonly #words: Int32Array;
  readonly #skipped: Int32Array;
  readonly #skippedDigests: BigUint64Array;
  readonly #toolsDigest: BigUint64Array;
  /** By the digest of their bytes, the oldest first. */
  readonly #pieces = new Map<bigint, Piece>();
  #kept = 0;

  constructor(kernel: AttachedKernel) {
    const { buffer, exports: k } = kernel;
    this.#kernel = kernel;
    this.#body = new Uint8Array(buffer, k.bodyOffset(), k.bodyCapacity());
    const chunks = new Int32Array(buffer)[k.HEADER_CHUNKS];
    this.#text = new Uint8Array(buffer, k.textOffset(), chunks * k.CHUNK_BYTES);
    this.#words = new Int32Array(buffer, k.scannedOffset(), k.SCANNED_BYTES >>> 2);
    this.#toolsDigest = new BigUint64Array(buffer, k.scannedOffset() + k.SCANNED_TOOLS_DIGEST, 1);
    this.#skipped = new Int32Array(buffer, k.skippedOffset(), 2 * chunks);
    this.#skippedDigests = new BigUint64Array(buffer, k.skippedOffset(), chunks);
  }

  /** Undefined for a body that has to be parsed. Overwrites the prompt in scratch. */
  scan(bytes: Uint8Array): { request: ScannedRequest; promptBytes: number } | undefined {
    if (bytes.length > this.#body.length) return undefined;
    const k = this.#kernel.exports;
    this.#body.set(bytes);
    if (k.scanChat(bytes.length) === 0) return undefined;
    const words = this.#words;
    const skipped = words[k.SCANNED_SKIPPED >>> 2];
    const toolsEnd = words[k.SCANNED_TOOLS_END >>> 2];
    let promptBytes = words[k.SCANNED_TEXT_BYTES >>> 2];
    let media = false;
    // Fast path: all of it has been read.
    if (skipped > 0 || toolsEnd > 0) {
      const filled = this.#fill(bytes, promptBytes, skipped, toolsEnd);
      if (filled === undefined) return undefined;
      ({ promptBytes, media } = filled);
    }
    const max = words[k.SCANNED_MAX_TOKENS >>> 2];
    const choices = Math.max(1, words[k.SCANNED_CHOICES >>> 2]);
    const [from, to] = [words[k.SCANNED_OPTIONS_START >>> 2], words[k.SCANNED_OPTIONS_END >>> 2]];
    const request = new ScannedRequest(
      bytes,
      this.#name(bytes, words[k.SCANNED_MODEL_START >>> 2], words[k.SCANNED_MODEL_END >>> 2]),
      words[k.SCANNED_STREAM >>> 2] === 1,
      max < 0 ? undefined : max * choices,
      choices,
      to === 0 ? undefined : JSON.parse(decoder.decode(bytes.subarray(from, to))),
      !media,
    );
    return { request, promptBytes };
  }

  // Puts the texts of what was skipped into the prompt text; undefined where that is not to be had of a piece alone, or
  // does not fit.
  #fill(bytes: Uint8Array, promptBytes: number, skipped: number, toolsEnd: number) {
    const k = this.#kernel.exports;
    const text = this.#text;
    const stride = k.SKIPPED_BYTES >>> 2;
    const toolsStart = this.#words[k.SCANNED_TOOLS_START >>> 2];
    const tools = toolsEnd > 0 ? this.#piece(this.#toolsDigest[0], bytes, toolsStart, toolsEnd, toolsOf) : NOTHING;
    if (tools === undefined) return undefined;
    const pieces: Piece[] = [];
    let total = promptBytes + tools.text.length;
    let media = false;
    for (let i = 0; i < skipped; i++) {
      const [start, end] = [this.#skipped[i * stride], this.#skipped[i * stride + 1]];
      const piece = this.#piece(this.#skippedDigests[i * (stride >>> 1) + 2], bytes, start, end, messageOf);
      if (piece === undefined) return undefined;
      pieces.push(piece);
      total += piece.text.length;
      media ||= piece.media;
    }
    if (total > text.length) return undefined;
    // From the end, so that each byte moves once.
    let to = total;
    let end = promptBytes;
    for (let i = skipped - 1; i >= 0; i--) {
      const at = this.#skipped[i * stride + 2];
      to -= end - at;
      text.copyWithin(to, at, end);
      end = at;
      to -= pieces[i].text.length;
      text.set(pieces[i].text, to);
    }
    text.copyWithin(tools.text.length, 0, end);
    text.set(tools.text, 0);
    return { promptBytes: total, media };
  }

  #piece(
    digest: bigint,
    bytes: Uint8Array,
    start: number,
    end: number,
    read: (value: unknown) => Omit<Piece, "source"> | undefined,
  ): Piece | undefined {
    const known = this.#pieces.get(digest);
    // Whoever finds two with one digest is not to speak for others.
    if (known !== undefined && standsAt(known.source, bytes, start, end)) return known;
    const source = bytes.slice(start, end);
    const made = read(JSON.parse(decoder.decode(source)));
    if (made === undefined) return undefined;
    const piece = { source, ...made };
    if (known !== undefined || costOf(piece) > KEPT_BYTES / 8) return piece;
    this.#pieces.set(digest, piece);
    this.#kept += costOf(piece);
    for (const [oldest, one] of this.#pieces) {
      if (this.#kept <= KEPT_BYTES) break;
      this.#pieces.delete(oldest);
      this.#kept -= costOf(one);
    }
    return piece;
  }

  /** The name that was found last, with its bytes: most requests name the same models. */
  #known = new Uint8Array(0);
  #knownName = "";

  #name(bytes: Uint8Array, start: number, end: number): string {
    const known = this.#known;
    if (known.length === end - start) {
      let i = 0;
      while (i < known.length && known[i] === bytes[start + i]) i++;
      if (i === known.length) return this.#knownName;
    }
    this.#known = bytes.slice(start, end);
    return this.#knownName = decoder.decode(this.#known);
  }
}

const NOTHING: Piece = { source: new Uint8Array(0), text: new Uint8Array(0), media: false };

const costOf = ({ source, text }: Piece): number => source.length + text.length + PIECE_BYTES;

// Whether these bytes are the same, eight at a time.
function standsAt(source: Uint8Array, bytes: Uint8Array, start: number, end: number): boolean {
  const length = end - start;
  if (source.length !== length) return false;
  let i = 0;
  for (let at = start; i + 8 <= length; i += 8, at += 8) {
    const differs = (source[i] ^ bytes[at]) | (source[i + 1] ^ bytes[at + 1]) | (source[i + 2] ^ bytes[at + 2]) |
      (source[i + 3] ^ bytes[at + 3]) | (source[i + 4] ^ bytes[at + 4]) | (source[i + 5] ^ bytes[at + 5]) |
      (source[i + 6] ^ bytes[at + 6]) | (source[i + 7] ^ bytes[at + 7]);
    if (differs !== 0) return false;
  }
  for (; i < length; i++) if (source[i] !== bytes[start + i]) return false;
  return true;
}

const toolsOf = (tools: unknown) => ({ text: encoder.encode(toolsText(tools)), media: false });

function messageOf(message: unknown): Omit<Piece, "source"> | undefined {
  const text = messageText(message);
  return text === undefined ? undefined : { text: encoder.encode(text), media: isMedia(message as object) };
}
