// SPDX-License-Identifier: Apache-2.0
// Every recorded stream through the relay, cut at every byte, with LF and CRLF.

import { assert, assertEquals } from "@std/assert";
import type { ReasoningStart } from "../../src/openai/reasoning.ts";
import { UpstreamError } from "../../src/upstream/errors.ts";
import { relayPieces } from "../support/relay.ts";
import { sharedFiles } from "../support/shared.ts";

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** Streams of our own, for the shapes that recordings lack. */
const OWN: Record<string, string> = {
  "no [DONE], usage in the finishing chunk":
    'data: {"choices":[{"index":0,"delta":{"content":"é"}}]}\n\ndata: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":7,"completion_tokens":1}}\n\n',
  "comments, pings, several data lines":
    ': hello\n\nevent: ping\n\ndata: {"choices":\ndata: [{"delta":{"content":"\\"usage\\":{"}}]}\n\nid: 3\ndata: {"choices":[],"usage" : {"prompt_tokens":5,\ndata: "completion_tokens":2,"prompt_tokens_details":{"cached_tokens":4}}}\n\ndata: [DONE]\n\n',
  "an end without an empty line": 'data: {"choices":[{"delta":{"content":"a"}}]}\n\ndata: [DONE]\n',
};

interface Recorded {
  name: string;
  text: string;
}

const recorded: Recorded[] = [
  ...Object.entries(OWN).map(([name, text]) => ({ name, text })),
  ...sharedFiles("data/sse", ".sse"),
  ...sharedFiles("data/sse", ".chunks.txt").map(({ name, text }) => ({
    name,
    text: text.trim().split("\n").map((line) => `data: ${line}\n\n`).join("") + "data: [DONE]\n\n",
  })),
];

/** The events and their data, by the rules of the standard, without any code of the gateway. */
function eventsOf(text: string): { raw: string; data: string | undefined }[] {
  const raws = text.match(/[\s\S]*?(?:\r\n\r\n|\n\n)|[\s\S]+$/g) ?? [];
  return raws.map((raw) => {
    const lines = raw.split(/\r?\n/).filter((line) => line.startsWith("data:"));
    return {
      raw,
      data: lines.length === 0 ? undefined : lines.map((line) => line.slice(5).replace(/^ /, "")).join("\n"),
    };
  });
}

// deno-lint-ignore no-explicit-any -- JSON of many shapes, compared as a whole
function json(data: string | undefined): any {
  try {
    return JSON.parse(data ?? "");
  } catch {
    return undefined;
  }
}

function expected(text: string) {
  const events = eventsOf(text);
  let usage: { promptTokens?: number; completionTokens?: number; cachedTokens?: number } | undefined;
  const shown: string[] = [];
  for (const { raw, data } of events) {
    const value = json(data);
    const told = value?.usage;
    if (typeof told?.prompt_tokens === "number" || typeof told?.completion_tokens === "number") {
      usage = { ...usage, promptTokens: told.prompt_tokens, completionTokens: told.completion_tokens };
      const cached = told.prompt_tokens_details?.cached_tokens;
      if (typeof cached === "number") usage.cachedTokens = cached;
      if (Array.isArray(value.choices) && value.choices.length === 0) continue;
    }
    shown.push(raw);
  }
  const error = json(events.find(({ data }) => data !== undefined)?.data)?.error;
  const ended = events.some(({ data }) => data === "[DONE]" || /"finish_reason":\s*"/.test(data ?? ""));
  return { usage, shown: shown.join(""), error, ended };
}

/** What is added to a stream that ends without the end of its answer. */
const BROKEN = /data: \{"error":\{[^\n]*"code":"upstream_failed"\}\}\n\ndata: \[DONE\]\n\n$/;

/** Cuts of which every byte is one in some run: all positions of one remainder at a time. */
function* cuts(bytes: Uint8Array<ArrayBuffer>): Generator<Uint8Array<ArrayBuffer>[]> {
  const stride = 127;
  for (let remainder = 0; remainder < Math.min(stride, bytes.length); remainder++) {
    const pieces: Uint8Array<ArrayBuffer>[] = [];
    for (let at = 0; at < bytes.length;) {
      const end = at === 0 ? Math.max(1, remainder) : at + stride;
      pieces.push(bytes.slice(at, end));
      at = end;
    }
    yield pieces;
  }
  // A single cut, at every byte of what is short enough.
  if (bytes.length < 6_000) { for (let at = 1; at < bytes.length; at++) yield [bytes.slice(0, at), bytes.slice(at)]; }
  yield Array.from(bytes, (byte) => Uint8Array.of(byte));
}

for (const { name, text } of recorded) {
  for (const crlf of [false, true]) {
    Deno.test(`${name} (${crlf ? "CRLF" : "LF"}): same bytes under every cut, usage, first token, end`, async () => {
      const stream = crlf ? text.replaceAll(/\r?\n/g, "\r\n") : text;
      const { usage, shown, error, ended } = expected(stream);
      const bytes = encoder.encode(stream);
      for (const pieces of cuts(bytes)) {
        const seen = await relayPieces(pieces);
        if (error) {
          assertEquals(seen.status, 400);
          continue;
        }
        const got = decoder.decode(seen.bytes);
        assertEquals(BROKEN.test(got), !ended);
        assertEquals([seen.status, got.replace(BROKEN, "")], [200, stream]);
        // Of a cut answer, the tokens that came are its usage.
        if (ended) assertEquals(seen.usage, usage);
        else assert(seen.usage!.completionTokens! > 0);
        assertEquals([seen.firstTokens, seen.released, seen.finished], [1, 1, ended]);
        assertEquals([seen.outcome, seen.failures], ended ? ["ok", 0] : ["stream_broken", 1]);
      }
      if (error) return;
      const hidden = await relayPieces([bytes], { hideUsage: true });
      assertEquals(decoder.decode(hidden.bytes).replace(BROKEN, ""), shown);
      if (ended) assertEquals(hidden.usage, usage);
    });
  }
}

Deno.test("the usage chunk that the client did not ask for is taken out under every cut", async () => {
  const before = 'data: {"id":"a","choices":[{"index":0,"delta":{"content":"hi"}}],"usage":null}\n\n';
  const chunk = 'data: {"id":"a","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":1}}\n\n';
  const bytes = encoder.encode(`${before}${chunk}data: [DONE]\n\n`);
  for (const pieces of cuts(bytes)) {
    const seen = await relayPieces(pieces, { hideUsage: true });
    assertEquals(decoder.decode(seen.bytes), `${before}data: [DONE]\n\n`);
    assertEquals(seen.usage, { promptTokens: 3, completionTokens: 1 });
  }
});

Deno.test("the fingerprint of a usage chunk that is taken out moves to the last chunk kept, under every cut", async () => {
  const token = 'data: {"choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":null}]}\n\n';
  const last = 'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n';
  const usage =
    'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":1},"system_fingerprint":"vllm-1"}\n\n';
  const moved = 'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"system_fingerprint":"vllm-1"}\n\n';
  for (const pieces of cuts(encoder.encode(`${token}${last}${usage}data: [DONE]\n\n`))) {
    const seen = await relayPieces(pieces, { hideUsage: true });
    assertEquals(decoder.decode(seen.bytes), `${token}${moved}data: [DONE]\n\n`);
  }
  // Without one, and where the stream ends or breaks behind it, the last chunk comes as it is.
  for (const end of ["", "data: [DONE]\n\n", usage.replace(',"system_fingerprint":"vllm-1"', "")]) {
    const bytes = encoder.encode(`${token}${last}${end}`);
    const seen = await relayPieces([bytes], { hideUsage: true });
    assert(decoder.decode(seen.bytes).startsWith(`${token}${last}`), end);
  }
});

Deno.test("an answer that the engine aborted is a failure of its endpoint", async () => {
  const token = 'data: {"choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":null}]}\n\n';
  const aborted = 'data: {"choices":[{"index":0,"delta":{"content":""},"finish_reason":"abort"}]}\n\ndata: [DONE]\n\n';
  for (const pieces of cuts(encoder.encode(token + aborted))) {
    const seen = await relayPieces(pieces);
    assertEquals([seen.outcome, seen.failures, decoder.decode(seen.bytes)], ["stream_failed", 1, token + aborted]);
  }
});

Deno.test("an error before the first token is a status with OpenAI's body, nested, flat or bare; later it passes", async () => {
  const errors: [string, Record<string, unknown>, status?: number][] = [
    ['{"error":{"message":"too long","type":"BadRequestError","code":400}}', { message: "too long", code: 400 }],
    ['{"object":"error","message":"flat","type":"BadRequestError","param":null,"code":400}', { message: "flat" }],
    ['{"error":"bare"}', { message: "bare" }, 500],
  ];
  for (const [data, wanted, status = 400] of errors) {
    const first = await relayPieces([encoder.encode(`: ping\ndata: ${data}\n\ndata: [DONE]\n\n`)]);
    assertEquals(first.status, status);
    const { error } = JSON.parse(decoder.decode(first.bytes));
    for (const [key, value] of Object.entries(wanted)) assertEquals(error[key], value);
    assertEquals(first.released, 1);
    const late = `data: {"choices":[{"delta":{"content":"a"}}]}\n\ndata: ${data}\n\n`;
    const seen = await relayPieces([encoder.encode(late)]);
    assertEquals([seen.status, decoder.decode(seen.bytes)], [200, late]);
  }
  const innocent = 'data: {"choices":[{"delta":{"content":"an error occurred"}}],"error":null}\n\ndata: [DONE]\n\n';
  assertEquals((await relayPieces([encoder.encode(innocent)])).status, 200);
});

Deno.test("a stream that breaks ends with an error in the dialect of its path", async () => {
  const failure = new UpstreamError("lost_in_answer", "gone");
  const ends: [kind: "chat" | "messages" | "responses", end: RegExp][] = [
    ["chat", /data: \{"error":\{.*"code":"upstream_failed"\}\}\n\ndata: \[DONE\]\n\n$/],
    ["messages", /event: error\ndata: \{"type":"error","error":\{"type":"api_error","message":.*\}\}\n\n$/],
    ["responses", /event: error\ndata: \{"type":"error","code":"upstream_failed".*\}\n\n$/],
  ];
  for (const [kind, end] of ends) {
    const seen = await relayPieces([encoder.encode(`${tokenOf(kind)}data: {un`)], { kind, failure });
    assert(end.test(decoder.decode(seen.bytes)), decoder.decode(seen.bytes));
    assertEquals([seen.released, seen.finished], [1, false]);
  }
});

/** Answers, who opens their reasoning, and how they are split: a tag that does not open the answer is text. */
const SPLITS: [text: string, start: ReasoningStart, content: string, reasoning: string][] = [
  ["<think>wel<l> ponder</think>ed answer <thin air>", "answer", "ed answer <thin air>", "wel<l> ponder"],
  ["\n <think>a</think>b<think>c</think>", "answer", "\n b<think>c</think>", "a"],
  ["Write `<think>` first </think>", "answer", "Write `<think>` first </think>", ""],
  ["<thin air>", "answer", "<thin air>", ""],
  ["  ", "answer", "  ", ""],
  ["<think>never closed </thin", "answer", "", "never closed </thin"],
  ["ponder</think>ed <think> </think>", "template", "ed <think> </think>", "ponder"],
  ["never closed", "template", "", "never closed"],
];

for (const [text, start, wantedContent, wantedReasoning] of SPLITS) {
  Deno.test(`reasoning is split off under every cut, by choice: ${JSON.stringify(text)}`, async () => {
    const words = (pieces: string[]) =>
      pieces.map((content, i) => {
        const last = i === pieces.length - 1;
        const choices = [0, 1].map((index) => ({ index, delta: { content }, finish_reason: last ? "stop" : null }));
        return `data: ${JSON.stringify({ id: "x", choices })}\n\n`;
      }).join("") + "data: [DONE]\n\n";
    for (let a = 0; a <= text.length; a++) {
      for (const b of [a, Math.min(text.length, a + 3), text.length]) {
        const stream = words([text.slice(0, a), text.slice(a, b), text.slice(b)]);
        const seen = await relayPieces([encoder.encode(stream)], { splitReasoning: start });
        for (const index of [0, 1]) {
          let content = "";
          let reasoning = "";
          for (const { data } of eventsOf(decoder.decode(seen.bytes))) {
            const delta = json(data)?.choices.find((choice: { index: number }) => choice.index === index)?.delta;
            content += delta?.content ?? "";
            reasoning += delta?.reasoning_content ?? "";
          }
          assertEquals([content, reasoning], [wantedContent, wantedReasoning]);
        }
      }
    }
  });
}

Deno.test("reasoning: a stream with nothing to split passes as it is", async () => {
  const plain =
    ["nothing ", "to split"].map((content) =>
      `data: ${JSON.stringify({ id: "x", choices: [{ index: 0, delta: { content }, finish_reason: null }] })}\n\n`
    ).join("") + "data: [DONE]\n\n";
  const seen = await relayPieces([encoder.encode(plain)], { splitReasoning: "answer" });
  assertEquals(decoder.decode(seen.bytes), plain);
});

Deno.test("reasoning is split out of a whole answer; usage is read from it", async () => {
  const answer = {
    choices: [{ index: 0, message: { role: "assistant", content: "<think>a</think>b" } }],
    usage: { prompt_tokens: 9, completion_tokens: 4, prompt_tokens_details: { cached_tokens: 8 } },
  };
  const bytes = encoder.encode(JSON.stringify(answer));
  const seen = await relayPieces([bytes.slice(0, 20), bytes.slice(20)], {
    contentType: "application/json",
    splitReasoning: "answer",
  });
  const { message } = JSON.parse(decoder.decode(seen.bytes)).choices[0];
  assertEquals([message.content, message.reasoning_content], ["b", "a"]);
  assertEquals(seen.usage, { promptTokens: 9, completionTokens: 4, cachedTokens: 8 });
});

/** An event that brings a token, in the dialect of a path. */
function tokenOf(kind: "chat" | "messages" | "responses"): string {
  const event = {
    chat: { choices: [{ index: 0, delta: { content: "a" } }] },
    messages: { type: "content_block_delta", index: 0, delta: { type: "text_delta", text: "a" } },
    responses: { type: "response.output_text.delta", delta: "a" },
  }[kind];
  return `data: ${JSON.stringify(event)}\n\n`;
}

Deno.test("an error event at every position of every recorded stream is a failure, told in place", async () => {
  for (const { name, text } of recorded) {
    const { error, ended } = expected(text);
    if (error || !ended) continue;
    const events = eventsOf(text).map(({ raw }) => raw);
    const last = events.findIndex((raw) => /"finish_reason":\s*"|\[DONE\]/.test(raw));
    for (let at = 0; at < last; at += Math.ceil(last / 40)) {
      const told = 'data: {"error":{"message":"EngineCore died","type":"InternalServerError","code":500}}\n\n';
      const stream = [...events.slice(0, at), told];
      const seen = await relayPieces(stream.map((raw) => encoder.encode(raw)));
      if (seen.firstTokens === 0 || seen.status !== 200) {
        assertEquals(seen.status, 500, `${name} ${at}`);
        continue;
      }
      assertEquals(decoder.decode(seen.bytes), stream.join(""), `${name} ${at}`);
      assertEquals([seen.outcome, seen.failures], ["stream_failed", 1], `${name} ${at}`);
      // And the stream that ends there, clean but without its end.
      const cut = await relayPieces(stream.slice(0, -1).map((raw) => encoder.encode(raw)));
      assertEquals([cut.outcome, cut.failures], ["stream_broken", 1], `${name} ${at}`);
    }
  }
});
