// SPDX-License-Identifier: Apache-2.0
import { assertEquals } from "@std/assert";
import { ManualClock } from "../../src/base/clock.ts";
import { RetryBudget } from "../../src/upstream/retry_budget.ts";

function drain(budget: RetryBudget): number {
  let taken = 0;
  while (budget.tryWithdraw()) taken++;
  return taken;
}

Deno.test("RetryBudget: a share of the requests, and a few a second whatever comes", () => {
  const clock = new ManualClock();
  const budget = new RetryBudget({ percent: 20, minPerSecond: 5 }, clock);
  assertEquals([budget.available, drain(budget), budget.available], [true, 5, false]);
  for (let i = 0; i < 4; i++) budget.deposit();
  assertEquals(budget.available, false, "four fifths of a retry");
  budget.deposit();
  assertEquals([budget.available, drain(budget)], [true, 1]);
  for (let i = 0; i < 100; i++) budget.deposit();
  assertEquals(drain(budget), 20);
  clock.advance(2_000);
  assertEquals(drain(budget), 10);
  clock.advance(1_000_000);
  assertEquals(drain(budget), 50, "ten seconds' worth at most");
  for (let i = 0; i < 100_000; i++) budget.deposit();
  assertEquals(drain(budget), 1_000, "savings are bounded");
  const none = new RetryBudget({ percent: 0, minPerSecond: 0 }, clock);
  for (let i = 0; i < 100; i++) none.deposit();
  assertEquals(drain(none), 0);
});
