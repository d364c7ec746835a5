// SPDX-License-Identifier: Apache-2.0
// The relay, piece by piece on a manual clock: who is told what, in which order, however the stream ends.

import { assert, assertEquals, assertRejects } from "@std/assert";
import { relay, type RelayOptions } from "../../src/front/http/relay.ts";
import { toResponse } from "../../src/front/http/served.ts";
import { openAnswer } from "../../src/gateway/answer.ts";
import type { Outcome } from "../../src/telemetry/outcome.ts";
import { UpstreamError, type UpstreamFailure } from "../../src/upstream/errors.ts";
import type { ResponseHead } from "../../src/upstream/response_head.ts";
import type { AccessLog, AccessRecord } from "../../src/telemetry/access_log.ts";
import { callParts, EVENTS, HandedBody, settle, toldGrant } from "../support/parts.ts";

const TOKEN = 'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n';
const DONE = "data: [DONE]\n\n";
const decoder = new TextDecoder();

/** Opens a stream with its first pieces and relays it. */
async function relayed(head: ResponseHead, first: (string | null)[], more: Partial<RelayOptions> = {}) {
  const outcomes: Outcome[] = [];
  const accessLog = {
    takes: () => true,
    write: ({ outcome }: AccessRecord) => outcomes.push(outcome),
  } as unknown as AccessLog;
  const { clock, deadlines, context, calls, open } = callParts({ accessLog });
  const call = open();
  const body = new HandedBody();
  body.hand(...first);
  const expected = { kind: "chat" as const, tokens: true, choices: 1, opened() {}, heard() {} };
  const answer = await openAnswer(head, body, expected, { wholeBytes: 1_024, eventBytes: 1_024 });
  const grant = toldGrant();
  const options = {
    context,
    deadlines,
    clientStallMs: 1_000,
    heartbeatMs: 15_000,
    hideUsage: false,
    splitReasoning: undefined,
    stored: undefined,
    ...more,
  };
  const response = toResponse(relay({ answer, grant, call, kind: "chat", options }));
  const reader = response.body!.getReader();
  const read = async () => decoder.decode((await reader.read()).value);
  return { clock, deadlines, calls, call, body, grant, response, reader, read, outcomes };
}

Deno.test("relay: a good end: first token once, success, release, outcome; no deadline is left", async () => {
  const { deadlines, calls, body, grant, read, reader, outcomes } = await relayed(EVENTS, [TOKEN]);
  assertEquals(await read(), TOKEN);
  body.hand(TOKEN + DONE, null);
  assertEquals(await read(), TOKEN + DONE);
  assertEquals([grant.did, outcomes], [["remember", "firstToken"], []]);
  assert((await reader.read()).done);
  assertEquals(grant.did, ["remember", "firstToken", "succeeded", "released"]);
  assertEquals([body.did, outcomes, deadlines.size, calls.active.size], [["finish"], ["ok"], 0, 0]);
});

Deno.test("relay: the usage of an answer too large to be read whole is read while it passes", async () => {
  const json: ResponseHead = {
    status: 200,
    headers: [["content-type", "application/json"]],
    framing: { kind: "chunked" },
    keepAlive: true,
  };
  const { body, call, read, reader, outcomes } = await relayed(json, [`{"data":["${"x".repeat(2_000)}"],"usa`]);
  await read();
  body.hand('ge":{"prompt_tokens":7,"total_tokens":7}}', null);
  await read();
  assert((await reader.read()).done);
  assertEquals([call.usage, outcomes], [{ promptTokens: 7 }, ["ok"]]);
});

Deno.test("relay: nothing is read that the client does not ask for", async () => {
  const { clock, body, read, reader } = await relayed(EVENTS, [TOKEN, TOKEN, TOKEN]);
  await settle();
  clock.advance(500);
  assertEquals(body.reading, false);
  await read();
  await settle();
  assertEquals(body.reading, false);
  await reader.cancel();
});

Deno.test("relay: a client that takes nothing for too long is let go; one whose engine is silent is not", async () => {
  const stalled = await relayed(EVENTS, [TOKEN]);
  assertEquals(await stalled.read(), TOKEN);
  const pending = stalled.read(); // it waits for the engine now
  await settle();
  stalled.clock.advance(10_000);
  assertEquals(stalled.outcomes, []);
  stalled.body.hand(TOKEN);
  assertEquals(await pending, TOKEN);
  stalled.clock.advance(980);
  assertEquals(stalled.outcomes, []);
  stalled.clock.advance(40);
  assertEquals([stalled.outcomes, stalled.body.did], [["client_closed"], ["fail"]]);
  assertEquals(stalled.grant.did.filter((what) => what === "released"), ["released"]);
  assertEquals(stalled.deadlines.size, 0);
  await assertRejects(() => stalled.reader.read(), Error, "took nothing");
});

Deno.test("relay: a client that leaves while a piece is awaited: released once, the engine told, no failure of it", async () => {
  const { body, grant, reader, read, outcomes, deadlines } = await relayed(EVENTS, [TOKEN]);
  await read();
  const pending = reader.read();
  await settle();
  await reader.cancel();
  assert((await pending).done);
  await settle();
  assertEquals(grant.did, ["remember", "firstToken", "released"]);
  assertEquals([body.did, outcomes, deadlines.size], [["fail"], ["client_closed"], 0]);
});

Deno.test("relay: a client that leaves just as the engine ends: nothing is told of a grant that is released", async () => {
  const { body, grant, reader, read, outcomes } = await relayed(EVENTS, [TOKEN]);
  await read();
  const pending = reader.read();
  await settle();
  body.hand(null); // its continuation has not run when the client leaves
  await reader.cancel();
  await pending;
  await settle();
  assertEquals([grant.did, outcomes], [["remember", "firstToken", "released"], ["client_closed"]]);
});

Deno.test("relay: each way that the engine, or the request's time, breaks a stream off has its outcome", async () => {
  const ways: [UpstreamFailure, Outcome, boolean, string | undefined][] = [
    ["lost_in_answer", "stream_broken", true, "upstream_failed"],
    ["idle_timeout", "stream_broken", true, "upstream_timeout"],
    ["deadline", "deadline_exceeded", false, "deadline_exceeded"],
    ["draining", "draining", false, "draining"],
    ["aborted", "client_closed", false, undefined],
  ];
  for (const [failure, outcome, blamed, code] of ways) {
    const { body, grant, reader, read, outcomes, deadlines } = await relayed(EVENTS, [TOKEN]);
    await read();
    body.hand(new UpstreamError(failure, "why"));
    if (code === undefined) assert((await reader.read()).done);
    else {
      const last = await read();
      assert(last.includes(`"code":"${code}"`) && last.endsWith(DONE), last);
      assert((await reader.read()).done);
    }
    const told = ["remember", "firstToken", ...(blamed ? ["failed"] : []), "released"];
    assertEquals([grant.did, outcomes, deadlines.size], [told, [outcome], 0], failure);
    assertEquals(body.did, ["close"]);
  }
});

Deno.test("relay: an answer that is no event stream is cut where it breaks", async () => {
  const head: ResponseHead = { ...EVENTS, headers: [["content-type", "audio/wav"]] };
  const { body, reader, read, outcomes } = await relayed(head, ["RIFF"]);
  assertEquals(await read(), "RIFF");
  body.hand(new UpstreamError("lost_in_answer", "why"));
  await assertRejects(() => reader.read(), Error);
  assertEquals(outcomes, ["stream_broken"]);
});

Deno.test("relay: a stream whose engine is silent gets a comment at every heartbeat", async () => {
  const { clock, body, read, reader, outcomes } = await relayed(EVENTS, [TOKEN], { heartbeatMs: 400 });
  assertEquals(await read(), TOKEN);
  for (let i = 0; i < 5; i++) {
    const next = read();
    await settle();
    clock.advance(420);
    assertEquals(await next, ": waiting\n\n");
  }
  body.hand(TOKEN + DONE, null);
  assertEquals(await read(), TOKEN + DONE);
  assert((await reader.read()).done);
  assertEquals(outcomes, ["ok"]);
});

Deno.test("relay: a client that takes no comment for too long is let go", async () => {
  const { clock, body, read, reader, outcomes, deadlines } = await relayed(EVENTS, [TOKEN], { heartbeatMs: 400 });
  assertEquals(await read(), TOKEN);
  const next = read();
  await settle();
  clock.advance(420);
  assertEquals(await next, ": waiting\n\n"); // and from here on nothing more
  for (let i = 0; i < 5; i++) clock.advance(420);
  assertEquals([outcomes, body.did, deadlines.size], [["client_closed"], ["fail"], 0]);
  await assertRejects(() => reader.read(), Error, "took nothing");
});

Deno.test("relay: an engine that ends without the end of its answer has broken it off", async () => {
  const { body, grant, read, reader, outcomes } = await relayed(EVENTS, [TOKEN]);
  assertEquals(await read(), TOKEN);
  body.hand(TOKEN, null);
  assertEquals(await read(), TOKEN);
  const last = await read();
  assert(last.includes('"code":"upstream_failed"') && last.endsWith(DONE), last);
  assert((await reader.read()).done);
  assertEquals([grant.did, outcomes], [["remember", "firstToken", "failed", "released"], ["stream_broken"]]);
});

Deno.test("relay: an error event passes as it is, and is a failure where it blames the engine", async () => {
  for (
    const [code, outcome] of [[500, "stream_failed"], [undefined, "stream_failed"], [400, "engine_rejected"]] as const
  ) {
    const error = `data: {"error":{"message":"m","code":${JSON.stringify(code) ?? null}}}\n\n`;
    const { body, grant, read, reader, outcomes } = await relayed(EVENTS, [TOKEN]);
    assertEquals(await read(), TOKEN);
    body.hand(error, DONE, null);
    assertEquals([await read(), await read()], [error, DONE]);
    assert((await reader.read()).done);
    assertEquals(outcomes, [outcome]);
    assertEquals(grant.did.includes("failed"), outcome === "stream_failed");
    assertEquals(grant.did.includes("succeeded"), outcome !== "stream_failed");
  }
});

Deno.test("relay: a connection that is lost behind the end of an answer breaks nothing", async () => {
  const { body, grant, read, reader, outcomes } = await relayed(EVENTS, [TOKEN]);
  assertEquals(await read(), TOKEN);
  body.hand(TOKEN + DONE, new UpstreamError("lost_in_answer", "why"));
  assertEquals(await read(), TOKEN + DONE);
  assert((await reader.read()).done);
  assertEquals([grant.did, outcomes], [["remember", "firstToken", "released"], ["ok"]]);
});
