// SPDX-License-Identifier: Apache-2.0
// Reads a chat's body in the kernel, where it can: what the gateway decides by, and the prompt text, which is then where
// prompts are hashed. The body itself is parsed only if somebody asks for the rest of it.

import type { AttachedKernel } from "../../wasm/kernel.ts";
import { decodeRequest, type InferenceRequest } from "../openai/request.ts";

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
  readonly plainText = true;
  #whole: InferenceRequest | undefined;

  constructor(
    readonly bytes: Uint8Array,
    readonly model: string,
    readonly stream: boolean,
    readonly maxTokens: number | undefined,
    readonly choices: number,
    readonly streamOptions: unknown,
  ) {}

  /** As parsed, which nobody needs but in passing. */
  get whole(): InferenceRequest {
    return this.#whole ??= decodeRequest("chat", this.bytes);
  }

  get body(): InferenceRequest["body"] {
    return this.whole.body;
  }
}

const decoder = new TextDecoder();

export class BodyScanner {
  readonly #kernel: AttachedKernel;
  readonly #body: Uint8Array;
  readonly #words: Int32Array;

  constructor(kernel: AttachedKernel) {
    const k = kernel.exports;
    this.#kernel = kernel;
    this.#body = new Uint8Array(kernel.buffer, k.bodyOffset(), k.bodyCapacity());
    this.#words = new Int32Array(kernel.buffer, k.scannedOffset(), k.SCANNED_BYTES >>> 2);
  }

  /** Undefined for a body that has to be parsed. Overwrites the prompt in scratch. */
  scan(bytes: Uint8Array): { request: ScannedRequest; promptBytes: number } | undefined {
    if (bytes.length > this.#body.length) return undefined;
    const k = this.#kernel.exports;
    this.#body.set(bytes);
    if (k.scanChat(bytes.length) === 0) return undefined;
    const words = this.#words;
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
    );
    return { request, promptBytes: words[k.SCANNED_TEXT_BYTES >>> 2] };
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
