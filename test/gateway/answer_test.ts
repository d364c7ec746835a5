// SPDX-License-Identifier: Apache-2.0
import { assertEquals, assertRejects } from "@std/assert";
import { ManualClock } from "../../src/base/clock.ts";
import { Deadlines } from "../../src/base/deadlines.ts";
import { type Answer, holding, isEventStream, openAnswer } from "../../src/gateway/answer.ts";
import { UpstreamError } from "../../src/upstream/errors.ts";
import type { ResponseHead } from "../../src/upstream/response_head.ts";
import { EVENTS, HandedBody, settle } from "../support/parts.ts";

const JSON_HEAD: ResponseHead = { ...EVENTS, headers: [["content-type", "application/json"]] };
const text = (bytes: Uint8Array | undefined) => bytes && new TextDecoder().decode(bytes);

function parts(holdMs = 500) {
  const clock = new ManualClock();
  const deadlines = new Deadlines(clock, 10);
  const limits = { wholeBytes: 10, eventBytes: 1_024, hold: holding(deadlines, holdMs) };
  const body = new HandedBody();
  const open = async (head: ResponseHead): Promise<Answer> => await openAnswer(head, body, limits);
  return { clock, deadlines, body, open };
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
  for (const [code, status] of [[400, 400], [429, 429], [503, 503], ["x", 400], [302, 400]]) {
    const { body, open } = parts();
    body.hand(`: ping\n\ndata: {"error":{"message":"no","code":${JSON.stringify(code)}}}\n\n`);
    const { head, whole } = await open(EVENTS);
    assertEquals([head.status, text(whole)], [status, `{"error":{"message":"no","code":${JSON.stringify(code)}}}`]);
    assertEquals([head.headers, body.did], [[["content-type", "application/json"]], ["close"]]);
  }
});

Deno.test("openAnswer: a stream that ends before its first event is a whole one; one that breaks off rejects", async () => {
  const ends = parts();
  ends.body.hand("data: half", null);
  assertEquals(text((await ends.open(EVENTS)).whole), "data: half");
  assertEquals(ends.deadlines.size, 0);
  const breaks = parts();
  breaks.body.hand("data: half", new UpstreamError("lost_in_answer", "why"));
  await assertRejects(() => breaks.open(EVENTS), UpstreamError);
  assertEquals(breaks.deadlines.size, 0);
});

Deno.test("holding: the head waits for the first events, and not longer than its time", async () => {
  const { clock, deadlines, body, open } = parts(500);
  const opening = open(EVENTS);
  clock.advance(490);
  assertEquals(await Promise.race([opening, settle().then(() => "waits")]), "waits");
  clock.advance(20);
  const answer = await opening;
  assertEquals([answer.whole, answer.first, deadlines.size], [undefined, undefined, 0]);
  body.hand("data: 1\n\n");
  assertEquals(text(await answer.opening ?? undefined), "data: 1\n\n");
});

Deno.test("holding: first events in time leave no deadline", async () => {
  const { clock, deadlines, body, open } = parts(500);
  const opening = open(EVENTS);
  clock.advance(490);
  body.hand("data: 1\n\n");
  const { first, opening: late } = await opening;
  assertEquals([text(first), late, deadlines.size], ["data: 1\n\n", undefined, 0]);
});

Deno.test("isEventStream: only what may be looked into", () => {
  const of = (...headers: [string, string][]) => isEventStream({ ...EVENTS, headers });
  assertEquals(of(["content-type", "text/event-stream; charset=utf-8"]), true);
  assertEquals(of(["content-type", "text/event-stream"], ["content-encoding", "identity"]), true);
  assertEquals(of(["content-type", "text/event-stream"], ["content-encoding", "gzip"]), false);
  assertEquals(of(["content-type", "text/html"]), false);
});
