// SPDX-License-Identifier: Apache-2.0
// The order of a request's stages, and who owns its load between them.

import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import type { Admission } from "../../src/admission/admission.ts";
import type { Tenant } from "../../src/admission/tenants.ts";
import { parseConfig } from "../../src/config/load.ts";
import { GatewayError } from "../../src/base/errors.ts";
import { enginesWith } from "../../src/engines/backends.ts";
import { openAiEngine } from "../../src/engines/openai_engine.ts";
import { end } from "../../src/gateway/accounting.ts";
import type { Answer } from "../../src/gateway/answer.ts";
import type { Dispatched, Dispatcher } from "../../src/gateway/dispatch.ts";
import { type AnswerWatcher, Pipeline, type PipelineParts } from "../../src/gateway/pipeline.ts";
import type { RouteTable } from "../../src/gateway/routes.ts";
import type { StoredResponses } from "../../src/gateway/stored_responses.ts";
import type { DecisionMaker } from "../../src/scheduler/decision.ts";
import type { Ask, Grant, OnCancel } from "../../src/scheduler/scheduler.ts";
import { PLAIN } from "../../src/upstream/transport.ts";
import { callParts, EVENTS, HandedBody, KeptLog, schedulerParts, settle } from "../support/parts.ts";

const ANSWER: Answer = {
  head: EVENTS,
  body: new HandedBody(),
  whole: undefined,
  first: undefined,
  boundary: undefined,
};
const body = (more: Record<string, unknown> = {}) =>
  new TextEncoder().encode(JSON.stringify({ model: "m", messages: [{ role: "user", content: "x" }], ...more }));

const NOBODY: AnswerWatcher = { queued() {}, opened() {} };

interface Stage {
  dispatch?: (grant: Grant, moved: () => void) => Promise<Answer>;
  acquire?: (ask: Ask, onCancel: OnCancel) => void | Promise<void>;
}

function parts({ dispatch, acquire }: Stage = {}) {
  const scheduler = schedulerParts(1);
  const { clock, deadlines, open } = callParts({ requestMs: 86_400_000 });
  const config = parseConfig({ prediction: { first_token_margin: 2 } });
  const log = new KeptLog();
  const did: string[] = [];
  const { placement, queue, table, rows: [row] } = scheduler;
  const tenant = { name: "t", row: 0, limits: {} } as unknown as Tenant;
  const pipeline = new Pipeline(
    {
      config,
      deadlines,
      routes: {
        resolve({ model }: { model: string }) {
          did.push("route");
          if (model !== "m") throw new GatewayError("model_not_found", model);
          return { model: 0, rule: { backend: "openai" }, placement, transport: PLAIN, targetModel: "", lora: "" };
        },
      } as unknown as RouteTable,
      decisions: { digest: (text: string) => text, scan: () => undefined } as unknown as DecisionMaker,
      scheduler: {
        async acquire(ask: Ask, onCancel: OnCancel) {
          did.push("decide");
          await acquire?.(ask, onCancel);
          return await queue.acquire(ask, onCancel);
        },
      },
      queue: scheduler.ask("").queue,
      dispatcher: {
        async dispatch(grant: Grant, { moved }: Dispatched) {
          did.push("dispatch");
          return await (dispatch?.(grant, moved) ?? ANSWER);
        },
      } as unknown as Dispatcher,
      responses: { endpointFor: () => undefined, store() {} } as unknown as StoredResponses,
      engines: enginesWith(openAiEngine(undefined)),
      admission: {
        enter: ({ estimate }: Parameters<Admission["enter"]>[0]) => {
          did.push("admit");
          estimate();
          const tokens = { inputTokens: 0, outputTokens: 0 };
          const reservation = { tokens, settle: () => did.push("settle"), refund: () => did.push("refund") };
          return { priority: 0, band: 1_000, deadlineMs: 0, reservation };
        },
      } as unknown as Admission,
      usageEstimate: () => ({ inputTokens: 1, outputTokens: 1 }),
      log,
    } satisfies PipelineParts,
  );
  const call = open();
  const account = (reservations: string[] = []) => {
    call.account = {
      tenant,
      reserved: () => reservations.push("hold"),
      generated() {},
      settle() {},
    } as unknown as typeof call.account;
    return reservations;
  };
  const held = account();
  const admit = (more: Record<string, unknown> = {}) =>
    pipeline.admit(call, { kind: "chat", tenant, target: "/v1/chat/completions", bytes: body(more) });
  const load = () => table.requests(row);
  const finish = () => {
    call.account = undefined;
    end(call, "ok");
    scheduler[Symbol.dispose]();
  };
  return { clock, deadlines, scheduler, pipeline, call, did, log, held, admit, load, [Symbol.dispose]: finish };
}

Deno.test("Pipeline: route before limits are taken, and the reservation is held by the call at once", () => {
  using all = parts();
  all.admit();
  assertEquals([all.did, all.held], [["route", "admit"], ["hold"]]);
  using wrong = parts();
  assertThrows(() => wrong.admit({ model: "other" }), GatewayError, "other");
  const nonsense = { kind: "chat" as const, tenant: {} as Tenant, target: "/", bytes: new Uint8Array(1) };
  assertThrows(() => wrong.pipeline.admit(wrong.call, nonsense), GatewayError);
  assertEquals([wrong.did, wrong.held], [["route"], []], "nothing is reserved for what cannot be served");
});

Deno.test("Pipeline: an answer takes the load along; a failure releases it", async () => {
  using good = parts();
  const { grant, hideUsage } = await good.pipeline.answer(good.call, good.admit({ stream: true }), NOBODY);
  assertEquals([good.load(), hideUsage, good.did], [1, true, ["route", "admit", "decide", "dispatch"]]);
  grant[Symbol.dispose]();
  assertEquals([good.load(), good.deadlines.size], [0, 1]);
  for (
    const [error, code] of [[new GatewayError("upstream_failed", "no"), "upstream_failed"], [
      new Error("?"),
      "internal",
    ]] as const
  ) {
    using bad = parts({ dispatch: () => Promise.reject(error) });
    const failed = await assertRejects(() => bad.pipeline.answer(bad.call, bad.admit(), NOBODY), GatewayError);
    assertEquals([failed.code, bad.load(), bad.deadlines.size], [code, 0, 1]);
    assertEquals(bad.log.lines.length, code === "internal" ? 1 : 0, "what nobody foresaw is logged");
  }
});

Deno.test("Pipeline: the usage chunk is hidden where the client did not ask for it", async () => {
  for (
    const [more, hidden] of [[{ stream: true }, true], [
      { stream: true, stream_options: { include_usage: true } },
      false,
    ], [{}, false]] as const
  ) {
    using all = parts();
    const { grant, hideUsage } = await all.pipeline.answer(all.call, all.admit(more), NOBODY);
    assertEquals(hideUsage, hidden);
    grant[Symbol.dispose]();
  }
});

Deno.test("Pipeline: a prompt whose first token is not seen comes off at its margin, counted again after a move", async () => {
  const answered = Promise.withResolvers<Answer>();
  let move: () => void = () => {};
  let marginMs = 0;
  using all = parts({
    dispatch(grant, moved) {
      grant.leg.sent();
      marginMs = 2 * grant.predictedMs;
      move = moved;
      return answered.promise;
    },
  });
  const { table, rows: [row] } = all.scheduler;
  const prompt = () => table.promptBytes(row);
  const messages = [{ role: "user", content: "x".repeat(4_000) }];
  const answering = all.pipeline.answer(all.call, all.admit({ messages }), NOBODY);
  await settle();
  assert(marginMs > 100, `${marginMs} ms`);
  all.clock.advance(marginMs - 20);
  assert(prompt() > 4_000);
  move();
  all.clock.advance(marginMs - 20);
  assert(prompt() > 4_000, "its time began anew");
  all.clock.advance(40);
  assertEquals(prompt(), 0);
  answered.resolve(ANSWER);
  (await answering).grant[Symbol.dispose]();
  assertEquals(all.deadlines.size, 1, "only the request's own deadline is left");
});

Deno.test("Pipeline: who waits is told so, can leave, and its wait is on the record", async () => {
  let told = 0;
  using all = parts();
  const { scheduler, pipeline, call } = all;
  const first = await scheduler.queue.acquire(scheduler.ask("a ".repeat(10_000)), () => {});
  first.leg.sent();
  const content = "b ".repeat(10_000);
  const answering = pipeline.answer(call, all.admit({ messages: [{ role: "user", content }] }), {
    ...NOBODY,
    queued: () => told++,
  });
  answering.catch(() => {});
  await settle();
  assertEquals([told, scheduler.queue.waiting], [1, 1]);
  all.clock.advance(300);
  call.cancellation.leave();
  assertEquals((await assertRejects(() => answering, GatewayError)).code, "client_closed");
  assertEquals([call.queuedMs, scheduler.queue.waiting, all.load()], [300, 0, 1]);
  first[Symbol.dispose]();
});
