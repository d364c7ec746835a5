// SPDX-License-Identifier: Apache-2.0
import { assert, assertEquals } from "@std/assert";
import { EarlyHead } from "../../src/front/http/early_head.ts";
import { HttpResponse } from "../../src/front/http/exchange.ts";
import { toResponse } from "../../src/front/http/served.ts";
import { end } from "../../src/gateway/accounting.ts";
import { callParts, EVENTS, settle } from "../support/parts.ts";

const decoder = new TextDecoder();

function parts(queuedMs = 100) {
  const { clock, deadlines, context, open, calls } = callParts();
  const call = open();
  const early = new EarlyHead(deadlines, context, call, { queuedMs, openedMs: 50, heartbeatMs: 5_000 });
  const { promise: answering, resolve: answer } = Promise.withResolvers<HttpResponse>();
  const left: string[] = [];
  call.cancellation.waitsFor({ fail: ({ failure }) => left.push(failure) });
  return { clock, deadlines, call, calls, early, answering, answer, left };
}

/** A stream of events that tells whether it was cancelled. */
function events(...pieces: string[]) {
  const told = { cancelled: 0 };
  const response = new HttpResponse(200, {
    pull(controller) {
      const piece = pieces.shift();
      if (piece === undefined) controller.close();
      else controller.enqueue(new TextEncoder().encode(piece));
    },
    cancel() {
      told.cancelled++;
    },
  });
  response.append("content-type", "text/event-stream");
  return Object.assign(told, { response });
}

Deno.test("EarlyHead: an answer in time passes as it is, and no deadline is left", async () => {
  const { clock, deadlines, call, early, answering, answer } = parts();
  early.queued();
  const racing = early.race(answering);
  clock.advance(50);
  const response = new HttpResponse(200, "x");
  answer(response);
  assertEquals(await racing, response);
  end(call, "ok");
  assertEquals(deadlines.size, 0);
});

Deno.test("EarlyHead: after its time the head goes out, comments at every heartbeat, then the answer's events", async () => {
  const { clock, deadlines, call, early, answering, answer } = parts();
  early.queued();
  const racing = early.race(answering);
  clock.advance(100);
  const response = toResponse(await racing);
  assertEquals([response.status, response.headers.get("content-type")], [200, "text/event-stream;charset=UTF-8"]);
  const reader = response.body!.getReader();
  const read = async () => decoder.decode((await reader.read()).value);
  assertEquals(await read(), ": waiting\n\n");
  const second = read();
  clock.advance(4_980);
  await settle();
  clock.advance(40);
  assertEquals(await second, ": waiting\n\n");
  answer(events("data: 1\n\n", "data: 2\n\n").response);
  assertEquals([await read(), await read()], ["data: 1\n\n", "data: 2\n\n"]);
  assert((await reader.read()).done);
  end(call, "ok");
  assertEquals(deadlines.size, 0);
});

Deno.test("EarlyHead: an error after the head is an event, and the stream is whole", async () => {
  const { clock, deadlines, call, early, answering, answer } = parts(0);
  early.queued();
  const racing = early.race(answering);
  clock.advance(10);
  const response = toResponse(await racing);
  end(call, "queue_timeout");
  answer(new HttpResponse(429, '{"error":\n{"code":"queue_timeout"}}'));
  assertEquals(
    await response.text(),
    ': waiting\n\ndata: {"error": {"code":"queue_timeout"}}\n\ndata: [DONE]\n\n',
  );
  assertEquals(deadlines.size, 0);
});

Deno.test("EarlyHead: a client that leaves while the answer is waited for cancels that answer, once", async () => {
  const { clock, deadlines, call, early, answering, answer, left } = parts(0);
  early.queued();
  const racing = early.race(answering);
  clock.advance(10);
  const reader = toResponse(await racing).body!.getReader();
  await reader.read();
  const pending = reader.read();
  await settle(); // the answer's body is being waited for
  const leaving = reader.cancel();
  assertEquals(left, ["aborted"]);
  const told = events("data: 1\n\n");
  answer(told.response);
  await leaving;
  assert((await pending).done);
  await settle();
  assertEquals(told.cancelled, 1);
  end(call, "client_closed");
  assertEquals(deadlines.size, 0);
});

Deno.test("EarlyHead: a client that leaves in the middle of the answer cancels it", async () => {
  const { clock, call, early, answering, answer, left } = parts(0);
  early.queued();
  const racing = early.race(answering);
  clock.advance(10);
  const reader = toResponse(await racing).body!.getReader();
  await reader.read();
  const told = events("data: 1\n\n", "data: 2\n\n", "data: 3\n\n");
  answer(told.response);
  assertEquals(decoder.decode((await reader.read()).value), "data: 1\n\n");
  await reader.cancel();
  assertEquals([told.cancelled, left], [1, ["aborted"]]);
  end(call, "client_closed");
});

Deno.test("EarlyHead: an engine that has begun and is silent: the head goes out sooner, with the engine's fields", async () => {
  const { clock, deadlines, call, early, answering, answer } = parts(60_000);
  early.queued();
  const racing = early.race(answering);
  clock.advance(1_000);
  early.opened({ ...EVENTS, headers: [["content-type", "text/event-stream"], ["x-engine", "7"]] });
  clock.advance(60);
  const { headers, body } = toResponse(await racing);
  assertEquals([headers.get("x-engine"), headers.get("content-type")], ["7", "text/event-stream;charset=UTF-8"]);
  answer(events("data: 1\n\n").response);
  assertEquals(await new Response(body).text(), ": waiting\n\ndata: 1\n\n");
  end(call, "ok");
  assertEquals(deadlines.size, 0);
});

Deno.test("EarlyHead: nothing at all for the time of a heartbeat: the head goes out", async () => {
  const { clock, call, early, answering, answer } = parts();
  const racing = early.race(answering);
  clock.advance(4_980);
  assertEquals(await Promise.race([racing, settle().then(() => "waits")]), "waits");
  clock.advance(40);
  const response = toResponse(await racing);
  answer(events("data: 1\n\n").response);
  assertEquals(await response.text(), ": waiting\n\ndata: 1\n\n");
  end(call, "ok");
});

Deno.test("EarlyHead: a client that takes nothing piles up no comments", async () => {
  const { clock, call, early, answering, answer } = parts(0);
  early.queued();
  const racing = early.race(answering);
  clock.advance(10);
  const response = toResponse(await racing);
  await settle();
  for (let i = 0; i < 100; i++) clock.advance(5_000);
  answer(events("data: 1\n\n").response);
  const text = await response.text();
  assert(text.split(": waiting").length <= 3, text);
  end(call, "ok");
});
