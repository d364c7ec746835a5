// SPDX-License-Identifier: Apache-2.0
import { assertEquals } from "@std/assert";
import type { Call } from "../../src/gateway/call.ts";
import { FailureJudge, saysDead } from "../../src/gateway/failure_judge.ts";

const call = (tenant: number, content: unknown, more: Record<string, unknown> = {}) =>
  ({
    account: { tenant: { row: tenant } },
    kind: "chat",
    request: { model: "m", body: { messages: [{ role: "user", content }], ...more } },
  }) as unknown as Call;
const image = [{ type: "text", text: "x" }, { type: "image_url", image_url: {} }];

Deno.test("FailureJudge: one client with one kind of request has one failure, however often it comes", () => {
  const judge = new FailureJudge();
  const news = (...of: Call[]) => of.map((one) => judge.isNews(3, one));
  assertEquals(news(call(0, image), call(0, image), call(0, [...image].reverse())), [true, false, false]);
  assertEquals(news(call(1, image), call(0, "text"), call(0, "other text")), [true, true, false]);
  assertEquals(news(call(0, "text", { tools: [] })), [true]);
  assertEquals(judge.isNews(4, call(0, image)), true, "each endpoint by itself");
  judge.answered(3);
  assertEquals(news(call(0, image)), [true]);
});

Deno.test("FailureJudge: odd bodies are shapes too", () => {
  const judge = new FailureJudge();
  for (const messages of [null, "x", [null, 3, { content: [null, 7, {}] }]]) {
    const odd = { account: undefined, kind: "chat", request: { model: "m", body: { messages } } } as unknown as Call;
    judge.isNews(0, odd);
  }
  assertEquals(judge.isNews(0, { account: undefined, kind: undefined, request: undefined } as unknown as Call), true);
});

Deno.test("saysDead: a 500 that names a dead engine, and nothing else", () => {
  const text = (body: string) => new TextEncoder().encode(body);
  assertEquals(saysDead(500, text('{"error":{"message":"EngineCore encountered an issue. See"}}')), true);
  assertEquals(saysDead(500, text("vllm.v1.engine.exceptions.EngineDeadError")), true);
  assertEquals(saysDead(500, text('{"error":{"message":"image input is not supported"}}')), false);
  assertEquals([saysDead(503, text("EngineDeadError")), saysDead(500, undefined)], [false, false]);
});
