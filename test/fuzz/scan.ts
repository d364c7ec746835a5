// SPDX-License-Identifier: Apache-2.0
// The kernel's reading of a chat beside that of TypeScript: whatever it takes, it takes for the same request with the same
// prompt text, to the byte; whatever is no request, it does not take.

import { GatewayError } from "../../src/base/errors.ts";
import { asksForUsage } from "../../src/engines/openai_body.ts";
import { promptText } from "../../src/openai/prompt_text.ts";
import { decodeRequest, hasMedia } from "../../src/openai/request.ts";
import { BodyScanner } from "../../src/scheduler/body_scan.ts";
import { freshKernel } from "../support/kernel.ts";
import type { Random } from "../support/seed.ts";

const kernel = freshKernel();
const scanner = new BodyScanner(kernel);
const text = new Uint8Array(kernel.buffer, kernel.exports.textOffset(), 256 * kernel.exports.CHUNK_BYTES);
const encoder = new TextEncoder();
const decoder = new TextDecoder();
const OPTIONS = { digest: (one: string) => one.length.toString(16).padStart(32, "0"), payloadCharacters: 100_000 };

/** Holds one body to both; returns whether the kernel took it. Throws Error where they differ. */
export function compare(body: Uint8Array<ArrayBuffer>): boolean {
  const scanned = scanner.scan(body);
  if (scanned === undefined) return false;
  const wrong = (what: string, got: unknown, wanted: unknown) => {
    throw new Error(
      `${what}: ${JSON.stringify(got)} for ${JSON.stringify(wanted)} of ${JSON.stringify(decoder.decode(body))}`,
    );
  };
  const found = text.slice(0, scanned.promptBytes);
  let wanted;
  try {
    wanted = decodeRequest("chat", body);
  } catch (error) {
    if (!(error instanceof GatewayError)) throw error;
    return wrong("taken", "yes", error.message) ?? false;
  }
  const { request } = scanned;
  for (const key of ["kind", "model", "stream", "maxTokens", "choices", "cacheSalt", "previousResponse"] as const) {
    if (request[key] !== wanted[key]) wrong(key, request[key], wanted[key]);
  }
  if (JSON.stringify(request.streamOptions) !== JSON.stringify(wanted.streamOptions)) {
    wrong("stream_options", request.streamOptions, wanted.streamOptions);
  }
  if (asksForUsage(request) !== asksForUsage(wanted)) wrong("usage", asksForUsage(request), asksForUsage(wanted));
  if (hasMedia(request) !== hasMedia(wanted)) wrong("media", hasMedia(request), hasMedia(wanted));
  const canonical = promptText(wanted, OPTIONS);
  const bytes = encoder.encode(canonical);
  if (bytes.length !== found.length || bytes.some((byte, i) => byte !== found[i])) {
    wrong("prompt", decoder.decode(found), canonical);
  }
  return true;
}

const PIECES = [
  "a",
  "hello world ",
  "0123456789abcdef0123456789",
  "é",
  "ß漢字",
  "𝄞",
  "\u007f",
  "\ufffd",
  '\\"',
  "\\\\",
  "\\/",
  "\\b\\f\\n\\r\\t",
  "\\u0041",
  "\\u000a\\u0000\\u001f\\u007f",
  "\\u00E9",
  "\\uD834\\uDD1E",
  "\\ud834",
  "\\udd1e\\ud834",
  "\\ud834\\u0041",
  "\\u2028",
  "\\u0022\\u005c",
  "{}[]:,",
];
/** What is no text of JSON, now and then. */
const WRONG = ["\\x", "\\u12g4", "\n", "\u0001", "\\", '"'];

function string(random: Random, odd = true): string {
  let out = "";
  for (let i = random.below(8); i > 0; i--) out += random.pick(odd && random.chance(0.01) ? WRONG : PIECES);
  return `"${out}"`;
}

function value(random: Random, depth = 0): string {
  const kind = random.below(depth > 4 ? 6 : 8);
  if (kind === 0) return "null";
  if (kind === 1) return random.pick(["true", "false", "0", "-0", "1e5", "1.5E-3", "-12", "9007199254740993"]);
  if (kind === 2 && random.chance(0.05)) return random.pick(["01", "1.", ".5", "+1", "tru", "nul", "NaN", "1e", "--1"]);
  if (kind < 6) return string(random);
  const space = () => random.pick(["", "", "", " ", "\n\t", "\r "]);
  const items = Array.from(
    { length: random.below(3) },
    () => kind === 6 ? value(random, depth + 1) : `${string(random)}${space()}:${space()}${value(random, depth + 1)}`,
  );
  const inside = items.map((item) => `${space()}${item}${space()}`).join(",");
  return kind === 6 ? `[${inside}]` : `{${inside}}`;
}

type Field = [name: string, value: string];

function object(random: Random, fields: Field[]): string {
  const space = () => random.chance(0.1) ? random.pick([" ", "\n", "\t ", "\r\n"]) : "";
  return `{${
    fields.map(([name, one]) => `${space()}"${name}"${space()}:${space()}${one}${space()}`).join(",")
  }${space()}}`;
}

function part(random: Random, odd: boolean): string {
  if (random.chance(0.1)) return string(random, odd);
  const fields: Field[] = [];
  const types = odd ? ['"text"', '"image_url"', '"te\\u0078t"', "null"] : ['"text"', '"input_text"', '"output_text"'];
  if (random.chance(0.8)) fields.push(["type", random.pick(types)]);
  if (!odd || random.chance(0.95)) {
    fields.push(["text", !odd || random.chance(0.95) ? string(random, odd) : value(random)]);
  }
  if (random.chance(0.2)) fields.push(["cache_control", '{"type":"ephemeral"}']);
  if (odd && random.chance(0.05)) {
    fields.push(random.pick<Field>([["text", string(random, odd)], ["index", "0"], ["__proto__", "{}"]]));
  }
  if (random.chance(0.2)) fields.reverse();
  return object(random, fields);
}

/** Of messages that call tools, and of those that bring what they gave. */
const TOOL_FIELDS: Field[] = [
  [
    "tool_calls",
    '[{"id":"call_1","type":"function","index":0,"function":{"name":"f","arguments":"{\\"b\\": 1, \\"a\\":[1.0]}"}}]',
  ],
  ["tool_calls", '[ {"function" : {"arguments":"no json","name":"\\u0067"}, "id":null} ]'],
  ["tool_call_id", '"call_1"'],
  ["name", '"é"'],
  ["reasoning_content", '"hm"'],
];
const TOOLS = [
  '[{"type":"function","function":{"name":"f","parameters":{"type":"object","properties":{"z":{},"a":{"enum":[1,null]}}}}}]',
  '[{"function":{"name":"f"},"type":"function"} , {"type":"x"}]',
  "[null]",
  "[ ]",
];

function message(random: Random, odd: boolean): string {
  const fields: Field[] = [];
  const often = (share: number) => !odd || random.chance(share);
  if (random.chance(0.97)) {
    fields.push(["role", often(0.95) ? random.pick(['"user"', '"system"', '"x"']) : value(random)]);
  }
  if (random.chance(0.95)) {
    const parts = () => `[${Array.from({ length: random.below(4) }, () => part(random, odd)).join(",")}]`;
    const content = random.chance(0.6) ? string(random, odd) : random.chance(0.1) ? "null" : parts();
    fields.push(["content", often(0.95) ? content : value(random)]);
  }
  if (random.chance(0.1)) {
    fields.push([
      random.pick(["refusal", "annotations", "logprobs", "cache_control"]),
      random.pick(["null", "[]", '"x"', "{}"]),
    ]);
  }
  if (random.chance(0.1)) fields.push([random.pick(["name", "tool_calls", "function_call"]), "null"]);
  if (random.chance(0.15)) fields.push(random.pick(TOOL_FIELDS));
  if (odd && random.chance(0.1)) {
    fields.push([random.pick(["name", "tool_calls", "id", "type", "__proto__", "content"]), value(random)]);
  }
  if (odd && random.chance(0.05)) fields.reverse();
  return !odd || random.chance(0.97) ? object(random, fields) : value(random);
}

/** Fields of a request: values as clients write them, and others. */
const MORE: [name: string, usual: readonly string[], odd: readonly string[]][] = [
  ["stream", ["true", "false", "null"], ["1", '"true"']],
  ["max_tokens", ["5", "0", "null", "999999999"], ["1000000000", "1.5", "-1", "007", '"5"', "1e2"]],
  ["max_completion_tokens", ["7", "null", "0"], ["x"]],
  ["max_output_tokens", ["null"], ["7"]],
  ["n", ["1", "2", "0", "null"], ["1.0", "true"]],
  ["stream_options", ['{"include_usage":true}', "{}", '{"include_usage":"on"}', "5"], ["null", "{]"]],
  ["tools", ["null", ...TOOLS], ["[]", '[{"type":"function"}]', '"x"', "{}", "[,]"]],
  ["cache_salt", ["null"], ['""', '"salt"']],
  ["previous_response_id", ['"resp_1"'], ["5"]],
  ["temperature", ["0.7", "1"], ["01"]],
  ["stop", ['["a","b"]', "null"], ["[,]"]],
  ["metadata", ['{"a":{"b":[1,null,{}]}}'], ["{"]],
  ["x", ["1"], ["1"]],
];
/** Names that are not read here. */
const ODD_NAMES = ["\\u006dodel", "ключ", "model", "messages"];

/** A body as clients write it, or, as often, with something odd in it. */
export function chatBody(random: Random): Uint8Array<ArrayBuffer> {
  const odd = random.chance(0.5);
  const often = (share: number) => !odd || random.chance(share);
  const fields: Field[] = [];
  if (random.chance(0.95)) fields.push(["model", often(0.95) ? '"m"' : value(random)]);
  const count = random.below(5) + (often(0.95) ? 1 : 0);
  const messages = `[${Array.from({ length: count }, () => message(random, odd)).join(",")}]`;
  if (often(0.97)) fields.push(["messages", often(0.97) ? messages : value(random)]);
  for (const [name, usual, others] of MORE) {
    if (random.chance(0.2)) fields.push([name, random.pick(odd && random.chance(0.2) ? others : usual)]);
  }
  if (odd && random.chance(0.1)) fields.push([random.pick(ODD_NAMES), value(random)]);
  if (random.chance(0.5)) fields.sort(() => random.next() - 0.5);
  let body = object(random, fields);
  if (random.chance(0.05)) body = random.pick([" ", "\n", "\r\n\t"]) + body + random.pick(["", " ", "\n\n"]);
  if (odd && random.chance(0.1)) body = random.pick(["", "\ufeff"]) + body + random.pick(["x", "{}", "\0"]);
  const bytes = encoder.encode(body) as Uint8Array<ArrayBuffer>;
  if (odd && random.chance(0.2)) bytes[random.below(bytes.length)] = random.below(256);
  return odd && random.chance(0.1) ? bytes.slice(0, random.below(bytes.length)) : bytes;
}
