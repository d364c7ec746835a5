// SPDX-License-Identifier: Apache-2.0
import { assertEquals } from "@std/assert";
import { ManualClock } from "../../src/base/clock.ts";
import { Deadlines } from "../../src/base/deadlines.ts";
import type { GatewayError } from "../../src/base/errors.ts";
import { Cancellation } from "../../src/gateway/cancellation.ts";
import type { UpstreamError } from "../../src/upstream/errors.ts";

function parts(lifeMs = 1_000) {
  const clock = new ManualClock();
  const deadlines = new Deadlines(clock, 10);
  const cancellation = new Cancellation(deadlines, clock.now(), lifeMs);
  const failed: string[] = [];
  const waiting = { fail: ({ failure }: UpstreamError) => failed.push(failure) };
  return { clock, deadlines, cancellation, failed, waiting };
}

Deno.test("Cancellation: what is waited for fails with the reason, and so does what is waited for after", () => {
  const ways: [string, (one: Cancellation) => void][] = [
    ["aborted", (one) => one.leave()],
    ["draining", (one) => one.cut()],
    ["preempted", (one) => one.preempt()],
    ["deadline", (one) => one.expire()],
  ];
  for (const [reason, end] of ways) {
    const { cancellation, failed, waiting } = parts();
    cancellation.waitsFor(waiting);
    assertEquals([failed, cancellation.gone], [[], false]);
    end(cancellation);
    assertEquals([failed, cancellation.gone], [[reason], true]);
    cancellation.waitsFor(waiting);
    assertEquals(failed, [reason, reason], "the next step fails at once");
  }
});

Deno.test("Cancellation: the first reason stays", () => {
  const { cancellation, failed, waiting } = parts();
  cancellation.leave();
  cancellation.cut();
  cancellation.waitsFor(waiting);
  assertEquals(failed, ["aborted"]);
});

Deno.test("Cancellation: an answer that has begun makes room for nobody", () => {
  const { cancellation, failed, waiting } = parts();
  cancellation.waitsFor(waiting);
  cancellation.answering();
  cancellation.preempt();
  assertEquals([failed, cancellation.gone], [[], false]);
  cancellation.leave();
  assertEquals(failed, ["aborted"]);
});

Deno.test("Cancellation: a step's limit is told to the step, and the request goes on after unlimit", () => {
  const { clock, cancellation, failed, waiting } = parts(1_000);
  cancellation.waitsFor(waiting);
  const late: (GatewayError | undefined)[] = [];
  cancellation.limit(100, (error) => late.push(error));
  clock.advance(90);
  cancellation.unlimit();
  clock.advance(800);
  assertEquals([late, failed], [[], []]);
  clock.advance(120);
  assertEquals([late, failed], [[], ["deadline"]], "the request's own time is up");
});

Deno.test("Cancellation: a step that outlasts its limit, or the request's time, is told which of both it was", () => {
  for (const [lifeMs, stepMs, code] of [[1_000, 100, undefined], [100, 1_000, "deadline_exceeded"]] as const) {
    const { clock, cancellation, failed, waiting } = parts(lifeMs);
    cancellation.waitsFor(waiting);
    const late: (string | undefined)[] = [];
    cancellation.limit(stepMs, (error) => late.push(error?.code));
    clock.advance(90);
    assertEquals(late, []);
    clock.advance(20);
    assertEquals([late, failed], [[code], []]);
  }
});

Deno.test("Cancellation: nothing ends a request that has ended, and no timer is left", () => {
  const { clock, deadlines, cancellation, failed, waiting } = parts();
  cancellation.waitsFor(waiting);
  cancellation.close();
  assertEquals(deadlines.size, 0);
  clock.advance(5_000);
  cancellation.leave();
  cancellation.cut();
  assertEquals([failed, cancellation.gone], [[], false]);
});
