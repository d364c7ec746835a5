// SPDX-License-Identifier: Apache-2.0
// What is fuzzed: each target makes one case from a random source and throws when something is wrong with the outcome:
// another error than the one that is meant for bad input, or a broken promise about good input.

import { encode } from "@msgpack/msgpack";
import { decodeBatch, MalformedEvents } from "../../src/cache_events/events.ts";
import { GatewayError } from "../../src/base/errors.ts";
import { generatedPart } from "../../src/engines/triton/generate.ts";
import { inputTensors } from "../../src/engines/triton/tensors.ts";
import { INFERENCE_PATHS } from "../../src/openai/api.ts";
import { promptText } from "../../src/openai/prompt_text.ts";
import { decodeRequest } from "../../src/openai/request.ts";
import { spliceBody } from "../../src/openai/splice.ts";
import { UpstreamError } from "../../src/upstream/errors.ts";
import { ChunkedDecoder } from "../../src/upstream/chunked_decoder.ts";
import { decodeResponse, KSERVE } from "../../src/upstream/kserve.ts";
import { headEnd, parseResponseHead } from "../../src/upstream/response_head.ts";
import { readIncoming } from "../../src/upstream/request_head.ts";
import { runModel } from "../cache_events/model.ts";
import { chatBody, compare } from "./scan.ts";
import { relayPieces } from "../support/relay.ts";
import type { Random } from "../support/seed.ts";

const encoder = new TextEncoder();
const decoder = new TextDecoder();
const KINDS = [...new Set(INFERENCE_PATHS.values())];
// deno-lint-ignore no-control-regex -- control characters are what is looked for
const CONTROL = /[\x00-\x08\x0a-\x1f\x7f]/;
const PROMPTS = { digest: (text: string) => text.length.toString(16).padStart(8, "0"), payloadCharacters: 100_000 };

function check(condition: boolean, what: string): asserts condition {
  if (!condition) throw new Error(what);
}

/** A text with what parsers trip over. */
function text(random: Random): string {
  const parts = [
    "model",
    '"',
    "\\",
    "\\u00e9",
    "é",
    "𝄞",
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    " ",
    "\n",
    "usage",
    "stream_options",
  ];
  return Array.from({ length: random.below(6) }, () => random.pick(parts)).join("");
}

function value(random: Random, depth: number): unknown {
  const kind = random.below(depth > 3 ? 5 : 8);
  if (kind === 0) return null;
  if (kind === 1) return random.chance(0.5);
  if (kind === 2) return (random.next() - 0.5) * 10 ** random.below(12);
  if (kind <= 4) return text(random);
  if (kind === 5) return Array.from({ length: random.below(4) }, () => value(random, depth + 1));
  return object(random, depth + 1);
}

// Keys without escapes: after a while JSON.parse of V8 15.0 confuses short keys that have some (a key \n read as \\).
function object(random: Random, depth: number): Record<string, unknown> {
  const keys = [
    "model",
    "messages",
    "prompt",
    "input",
    "stream",
    "stream_options",
    "tools",
    "role",
    "content",
    "type",
    "cache_salt",
    "n",
  ];
  return Object.fromEntries(
    Array.from(
      { length: random.below(5) },
      () => [random.chance(0.8) ? random.pick(keys) : text(random).replaceAll(/["\\\n]/g, ""), value(random, depth)],
    ),
  );
}

function request(random: Random): Record<string, unknown> {
  const body = object(random, 0);
  if (random.chance(0.9)) body.model = random.chance(0.9) ? "m" : value(random, 1);
  if (random.chance(0.8)) {
    body.messages = random.chance(0.8)
      ? [{
        role: "user",
        content: random.chance(0.5)
          ? text(random)
          : [{ type: random.pick(["text", "image_url", "audio"]), text: text(random) }],
      }]
      : value(random, 1);
  }
  if (random.chance(0.5)) body.prompt = value(random, 1);
  if (random.chance(0.5)) body.input = value(random, 1);
  return body;
}

/** Breaks bytes: flips, cuts, doubles, inserts. */
function mutate(random: Random, bytes: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  let result = bytes.slice();
  for (let i = random.below(4); i > 0 && result.length > 0; i--) {
    const at = random.below(result.length);
    const how = random.below(4);
    if (how === 0) result[at] = random.below(256);
    else if (how === 1) result = result.slice(0, at);
    else if (how === 2) {
      result = Uint8Array.from([...result.slice(0, at), random.pick([13, 10, 34, 92, 123, 0]), ...result.slice(at)]);
    } else result = Uint8Array.from([...result, ...result.slice(at)]);
  }
  return result;
}

function printed(random: Random, body: Record<string, unknown>): Uint8Array<ArrayBuffer> {
  return encoder.encode(JSON.stringify(body, null, random.pick([0, 0, 1, "\t"])));
}

/** Request bodies: an error of the gateway's own with a 4xx, or a request whose body can be spliced and prompted. */
export function bodies(random: Random): void {
  const whole = printed(random, request(random));
  const bytes = random.chance(0.5) ? whole : mutate(random, whole);
  const kind = random.pick(KINDS);
  try {
    const call = decodeRequest(kind, bytes);
    promptText(call, PROMPTS);
    const changes = [{ key: "model", value: text(random) }, { key: "stream_options", value: { include_usage: true } }];
    const spliced = JSON.parse(decoder.decode(spliceBody(bytes, changes)));
    const wanted = { ...JSON.parse(decoder.decode(bytes)), model: changes[0].value, stream_options: changes[1].value };
    const sorted = (one: Record<string, unknown>) =>
      JSON.stringify(Object.keys(one).sort().map((key) => [key, one[key]]));
    check(sorted(spliced) === sorted(wanted), `splicing changed more than it should: ${decoder.decode(bytes)}`);
    if (kind === "chat" || kind === "completion") {
      for (const vllm of [false, true]) inputTensors(call, "", { maxTokens: 5, stop: [], vllm, counts: vllm });
    }
  } catch (error) {
    if (!(error instanceof GatewayError)) throw error;
    check(error.status >= 400 && error.status < 500, `${error.code} is no client's error`);
  }
}

/** Event streams: the same bytes out as in, however they are cut and whatever they hold. */
export async function streams(random: Random): Promise<void> {
  const newline = random.pick(["\n", "\r\n"]);
  let stream = "";
  for (let i = random.below(6); i >= 0; i--) {
    const content = JSON.stringify({
      choices: random.chance(0.2) ? [] : [{ index: random.below(2), delta: { content: text(random) } }],
      ...(random.chance(0.3) ? { usage: value(random, 2) } : {}),
    });
    const line = random.pick([
      `data: ${content}`,
      `data:${content}`,
      ": ping",
      "event: x",
      "data: [DONE]",
      "data: {",
      "id: 1",
    ]);
    stream += line + newline + (random.chance(0.9) ? newline : "");
  }
  const bytes = random.chance(0.7) ? encoder.encode(stream) : mutate(random, encoder.encode(stream));
  const pieces: Uint8Array<ArrayBuffer>[] = [];
  for (let at = 0; at < bytes.length;) {
    const end = at + 1 + random.below(random.pick([3, 40, 400]));
    pieces.push(bytes.slice(at, end));
    at = end;
  }
  const failure = random.chance(0.2) ? new UpstreamError("lost_in_answer", "cut") : undefined;
  try {
    const seen = await relayPieces(pieces, { failure, splitReasoning: random.chance(0.1) ? "answer" : undefined });
    check(seen.status === 200 || (seen.status >= 400 && seen.status <= 599), `status ${seen.status}`);
    check(seen.released === 1, `released ${seen.released} times`);
    const text = decoder.decode(bytes);
    if (seen.status === 200 && !failure && !text.includes("<think>")) {
      const got = decoder.decode(seen.bytes);
      // Of a stream without its end the client is told so, behind the same bytes.
      const same = seen.outcome === "stream_broken" ? got.startsWith(text) : got === text;
      check(same, `other bytes: ${JSON.stringify(text)}`);
    }
  } catch (error) {
    if (!(error instanceof UpstreamError)) throw error;
    check(
      failure !== undefined || error.message.includes("before the first token"),
      `an error without a failure: ${error}`,
    );
  }
}

/** Heads of requests and answers, and chunked bodies: refused as such, or read. */
export function heads(random: Random): void {
  const fields = [
    "content-length: 5",
    "content-length: 6",
    "transfer-encoding: chunked",
    "connection: close, x-a",
    "x-a: b",
    "x: \u00e9",
    "bad name: 1",
    ": none",
    "set-cookie: a",
    " folded",
  ];
  const lines = Array.from({ length: random.below(7) }, () => random.pick(fields));
  const first = random.pick(["HTTP/1.1 200 OK", "HTTP/1.0 404 X", "HTTP/1.1 99", "HTTP/2 200", "", "HTTP/1.1 204 "]);
  const whole = Uint8Array.from(
    [...`${first}\r\n${lines.map((line) => `${line}\r\n`).join("")}\r\n`].map((c) => c.charCodeAt(0)),
  );
  const bytes = random.chance(0.5) ? whole : mutate(random, whole);
  const end = headEnd(bytes, 0, bytes.length);
  check(end <= bytes.length, "the head ends beyond the bytes");
  try {
    if (end >= 0) {
      const { status, headers } = parseResponseHead(bytes, 0, end);
      check(status >= 100 && status < 600, `status ${status}`);
      for (const [name, text] of headers) {
        check(!CONTROL.test(name + text), `a control character in ${name}`);
      }
    }
    const chunked = mutate(random, encoder.encode("5\r\nhello\r\n3;x=1\r\nabc\r\n0\r\nt: 1\r\n\r\n"));
    const coding = new ChunkedDecoder();
    const cut = random.below(chunked.length + 1);
    for (const part of [chunked.slice(0, cut), chunked.slice(cut)]) {
      const stop = coding.decode(part, 0, part.length);
      check(stop >= 0 && stop <= part.length && coding.excess >= 0, "decoded beyond the bytes");
    }
  } catch (error) {
    if (!(error instanceof UpstreamError)) throw error;
  }
  const headers = new Headers();
  for (const line of lines) {
    const [name, ...rest] = line.split(": ");
    try {
      headers.append(name, rest.join(": "));
    } catch {
      // what no server would hand on
    }
  }
  const incoming = readIncoming(headers, { tenant: ["x-aigw-tenant"], priority: ["x-aigw-priority"], keys: true });
  check(!/\r\n\r\n/.test(incoming.fields) && incoming.fields.endsWith("\r\n"), "fields that end a head");
}

/** Triton's frames and events: an error, or outputs. */
export function frames(random: Random): void {
  const good = KSERVE.response.encode(KSERVE.response.fromObject({
    error_message: random.chance(0.2) ? text(random) : "",
    infer_response: {
      outputs: [{
        name: "text_output",
        datatype: random.pick(["BYTES", "INT32", "FP32", "X"]),
        shape: [1],
        contents: random.chance(0.5) ? { bytes_contents: [encoder.encode(text(random))] } : undefined,
      }],
      raw_output_contents: random.chance(0.5) ? [random.bytes(random.below(12))] : [],
    },
  })).finish();
  try {
    const { outputs } = decodeResponse(
      random.chance(0.3) ? Uint8Array.from(good) : mutate(random, Uint8Array.from(good)),
    );
    for (const output of outputs.values()) {
      check(typeof output === "string" || typeof output === "number", "an odd output");
    }
  } catch (error) {
    check(error instanceof Error && !(error instanceof TypeError), `${error}`);
  }
  try {
    const part = generatedPart(value(random, 0));
    check(typeof part.text === "string", "a part without text");
  } catch (error) {
    check(error instanceof Error && error.constructor === Error, `${error}`);
  }
}

/** Chats that the kernel reads. */
function scans(random: Random): void {
  compare(chatBody(random));
}

/** Events of engines' caches: broken batches, and what the index says after sound ones. */
function cacheEvents(random: Random): void {
  const batch = [
    random.next(),
    Array.from({ length: random.below(4) }, () => ({
      type: random.pick(["BlockStored", "BlockRemoved", "AllBlocksCleared", "Other"]),
      block_hashes: random.chance(0.8) ? [random.below(99), 2n ** 63n] : value(random, 3),
      token_ids: random.chance(0.8) ? [1, 2] : value(random, 3),
      block_size: random.chance(0.8) ? 1 : value(random, 3),
      extra_keys: value(random, 2),
    })),
    value(random, 3),
  ];
  const payload = encode(batch, { useBigInt64: true });
  for (let i = random.below(4); i > 0; i--) payload[random.below(payload.length)] = random.below(256);
  try {
    decodeBatch(payload.subarray(0, payload.length - (random.chance(0.2) ? random.below(payload.length) : 0)));
  } catch (error) {
    check(error instanceof MalformedEvents, `another error than for bad events: ${error}`);
  }
  if (random.chance(0.02)) runModel(random, { blockTokens: random.pick([1, 8, 16, 32]), steps: 60, blocks: 16_384 });
}

export const TARGETS = { bodies, scans, streams, heads, frames, cacheEvents } as const;
