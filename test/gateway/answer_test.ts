// SPDX-License-Identifier: Apache-2.0
import { assertEquals, assertRejects } from "@std/assert";
import { type Answer, isEventStream, openAnswer } from "../../src/gateway/answer.ts";
import { UpstreamError } from "../../src/upstream/errors.ts";
import type { ResponseHead } from "../../src/upstream/response_head.ts";
import { EVENTS, HandedBody, settle } from "../support/parts.ts";

const JSON_HEAD: ResponseHead = { ...EVENTS, headers: [["content-type", "application/json"]] };
const text = (bytes: Uint8Array | undefined) => bytes && new TextDecoder().decode(bytes);

function parts(tokens = true) {
  const limits = { wholeBytes: 10, eventBytes: 1_024 };
  const body = new HandedBody();
  const told: number[] = [];
  const expected = {
    kind: "chat" as const,
    tokens,
    heard() {},
    choices: 1,
    opened: ({ status }: ResponseHead) => told.push(status),
  };
  const open = async (head: ResponseHead): Promise<Answer> => await openAnswer(head, body, expected, limits);
  return { body, open, told };
}

Deno.test("openAnswer: an answer of known length up to the limit is read whole, a larger one is not", async () => {
  const small = parts();
  small.body.hand("01234", "56789", null);
  const whole = await small.open({ ...JSON_HEAD, framing: { kind: "length", bytes: 10 } });
  assertEquals([text(whole.whole), whole.first], ["0123456789", undefined]);
  const large = parts();
  large.body.hand("01234", "56789", "x");
  const streamed = await large.open({ ...JSON_HEAD, framing: { kind: "length", bytes: 11 } });
  assertEquals([streamed.whole, text(streamed.first)], [undefined, "0123456789x"]);
});

Deno.test("openAnswer: JSON of unknown length is whole up to the limit, what is no JSON goes on at once", async () => {
  const small = parts();
  small.body.hand("{}", null);
  assertEquals(text((await small.open(JSON_HEAD)).whole), "{}");
  const audio = parts();
  audio.body.hand("RIFF");
  const { whole, first } = await audio.open({ ...EVENTS, headers: [["content-type", "audio/wav"]] });
  assertEquals([whole, text(first)], [undefined, "RIFF"]);
});

Deno.test("openAnswer: no body is a whole one, and nothing is read", async () => {
  for (const head of [{ ...EVENTS, status: 204 }, { ...EVENTS, framing: { kind: "none" as const } }]) {
    const { body, open } = parts();
    assertEquals((await open(head)).whole?.length, 0);
    assertEquals(body.reading, false);
  }
});

Deno.test("openAnswer: an error as the first event becomes a status, of the engine's own code where that says who", async () => {
  for (
    const [code, status] of [[400, 400], [429, 429], [503, 503], [404, 404], ["x", 500], [302, 500], [
      "invalid_value",
      400,
    ]]
  ) {
    const { body, open } = parts();
    body.hand(`: ping\n\ndata: {"error":{"message":"no","code":${JSON.stringify(code)}}}\n\n`);
    const { head, whole } = await open(EVENTS);
    assertEquals([head.status, text(whole)], [status, `{"error":{"message":"no","code":${JSON.stringify(code)}}}`]);
    assertEquals([head.headers, body.did], [[["content-type", "application/json"]], ["close"]]);
  }
});

Deno.test("openAnswer: all that comes before the first token is held, and that it may be long is told once", async () => {
  const { body, open, told } = parts();
  const opening = open(EVENTS);
  await settle();
  assertEquals(told, [200]);
  const role = 'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n';
  const token = 'data: {"choices":[{"index":0,"delta":{"reasoning":"hm"}}]}\n\n';
  body.hand(role.slice(0, 20), role.slice(20), ": ping\n\n", 'data: {"choices":[]}\n\n');
  assertEquals(await Promise.race([opening, settle().then(() => "waits")]), "waits");
  body.hand(token);
  const { first, progress } = await opening;
  assertEquals(text(first), role + ': ping\n\ndata: {"choices":[]}\n\n' + token);
  assertEquals([progress?.tokens, told], [1, [200]]);
});

Deno.test("openAnswer: a stream that ends or breaks off before its first token rejects: it may move", async () => {
  for (const end of [null, new UpstreamError("lost_in_answer", "why")]) {
    const { body, open } = parts();
    body.hand(": ping\n\n", end);
    await assertRejects(() => open(EVENTS), UpstreamError);
  }
});

Deno.test("openAnswer: an answer without a token is one when it says its end", async () => {
  for (const end of ["data: [DONE]\n\n", 'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n']) {
    const { body, open } = parts();
    body.hand(end);
    assertEquals([text((await open(EVENTS)).first)], [end]);
  }
});

Deno.test("openAnswer: no more than the largest event is held", async () => {
  const { body, open } = parts();
  body.hand(`: ${"x".repeat(700)}\n\n`, `: ${"y".repeat(700)}\n\n`);
  const { first, progress } = await open(EVENTS);
  assertEquals([first?.length, progress?.begun], [1_408, false]);
});

Deno.test("openAnswer: events of which nothing is expected go on as they come", async () => {
  const { open, told } = parts(false);
  const { first, whole, progress, boundary } = await open(EVENTS);
  assertEquals([first, whole, progress, told], [undefined, undefined, undefined, []]);
  assertEquals(boundary !== undefined, true);
});

Deno.test("isEventStream: only what may be looked into", () => {
  const of = (...headers: [string, string][]) => isEventStream({ ...EVENTS, headers });
  assertEquals(of(["content-type", "text/event-stream; charset=utf-8"]), true);
  assertEquals(of(["content-type", "text/event-stream"], ["content-encoding", "identity"]), true);
  assertEquals(of(["content-type", "text/event-stream"], ["content-encoding", "gzip"]), false);
  assertEquals(of(["content-type", "text/html"]), false);
});
