// SPDX-License-Identifier: Apache-2.0
// Token counts of an answer, under the names of every API: chat and completions, responses, Anthropic messages.

/** Tokens of one request; undefined where the engine did not say. */
export interface Usage {
  promptTokens?: number;
  completionTokens?: number;
  /** Prompt tokens that came from the engine's prefix cache. */
  cachedTokens?: number;
}

const OPEN_BRACE = 123;
const CLOSE_BRACE = 125;
const COLON = 58;
const QUOTE = 34;
const BACKSLASH = 92;
const NAME = new TextEncoder().encode('"usage"');

/** Index of the object that is the value of a `"usage"` key, at or after `from`; -1 for none. */
export function usageAt(bytes: Uint8Array, from = 0): number {
  for (let at = bytes.indexOf(OPEN_BRACE, from); at >= 0; at = bytes.indexOf(OPEN_BRACE, at + 1)) {
    let before = at - 1;
    while (isSpace(bytes[before])) before--;
    if (bytes[before] !== COLON) continue;
    do before--; while (isSpace(bytes[before]));
    let i = NAME.length - 1;
    while (i >= 0 && bytes[before] === NAME[i]) {
      before--;
      i--;
    }
    if (i < 0) return at;
  }
  return -1;
}

/** The usage in a whole JSON answer, from its last `"usage"` object, without parsing the rest. */
export function usageOfBody(body: Uint8Array): Usage | undefined {
  let found: Usage | undefined;
  for (let at = usageAt(body); at >= 0; at = usageAt(body, at + 1)) {
    const end = objectEnd(body, at);
    if (end < 0) break;
    try {
      found = readUsage(JSON.parse(new TextDecoder().decode(body.subarray(at, end)))) ?? found;
    } catch {
      // text that looks like one
    }
  }
  return found;
}

/** The usage in the data of an event: of a chunk, of a response, or of a message. */
export function usageOfEvent(data: unknown): Usage | undefined {
  const { usage, response, message } = (data ?? {}) as Record<string, Record<string, unknown> | undefined>;
  return readUsage(usage ?? response?.usage ?? message?.usage);
}

/** The figures of a usage object, under the names of any of the APIs. */
export function readUsage(value: unknown): Usage | undefined {
  if (typeof value !== "object" || value === null) return undefined;
  const fields = value as Record<string, unknown>;
  const details = (fields.prompt_tokens_details ?? fields.input_tokens_details ?? {}) as Record<string, unknown>;
  const usage: Usage = {};
  const prompt = fields.prompt_tokens ?? fields.input_tokens;
  const completion = fields.completion_tokens ?? fields.output_tokens;
  const cached = details.cached_tokens ?? fields.cache_read_input_tokens;
  if (isCount(prompt)) usage.promptTokens = prompt;
  if (isCount(completion)) usage.completionTokens = completion;
  if (isCount(cached)) usage.cachedTokens = cached;
  return usage.promptTokens === undefined && usage.completionTokens === undefined ? undefined : usage;
}

function isCount(value: unknown): value is number {
  return typeof value === "number" && Number.isFinite(value) && value >= 0;
}

function objectEnd(bytes: Uint8Array, start: number): number {
  let depth = 0;
  let quoted = false;
  for (let at = start; at < bytes.length; at++) {
    const byte = bytes[at];
    if (quoted) {
      if (byte === BACKSLASH) at++;
      else if (byte === QUOTE) quoted = false;
    } else if (byte === QUOTE) quoted = true;
    else if (byte === OPEN_BRACE) depth++;
    else if (byte === CLOSE_BRACE && --depth === 0) return at + 1;
  }
  return -1;
}

function isSpace(byte: number): boolean {
  return byte === 32 || byte === 10 || byte === 13 || byte === 9;
}
