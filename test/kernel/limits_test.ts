// SPDX-License-Identifier: Apache-2.0
import { assert, assertEquals } from "@std/assert";
import { freshKernels } from "../support/kernel.ts";
import { Random, seed } from "../support/seed.ts";

const MINUTE = 60_000;

Deno.test("limitReserve never lets a window be exceeded, whoever reserves and settles, and lets all of it be used", () => {
  const random = new Random(seed);
  for (let round = 0; round < 50; round++) {
    const kernels = freshKernels();
    const limit = 100 + random.below(100_000);
    let now = 1e12 + random.below(MINUTE);
    let granted = 0;
    let waited = 0;
    const from = now;
    for (let step = 0; step < 2_000; step++) {
      const { exports: k } = random.pick(kernels);
      const amount = 1 + random.below(Math.ceil(limit / 20));
      const wait = k.limitReserve(1, 0, amount, limit, now);
      if (wait === 0) {
        granted += amount;
        // A fifth of what was reserved is not used.
        if (random.chance(0.2)) {
          k.limitSettle(1, 0, -amount, now);
          granted -= amount;
        }
        assert(k.limitUsed(1, 0, now) <= limit + 1e-6, "no more than the limit in the window");
      } else {
        assert(wait > 0 && wait <= 2 * MINUTE, `${wait} ms`);
        waited++;
        now += random.chance(0.5) ? wait + 1 : random.below(MINUTE);
      }
      now += random.below(20);
    }
    assert(waited > 0);
    const minutes = (now - from) / MINUTE;
    assert(granted <= limit * (minutes + 2), `${granted} of ${limit} a minute in ${minutes} minutes`);
  }
});

Deno.test("limitReserve waits as long as it says, refuses what never fits, and forgets what is over", () => {
  const [{ exports: k }] = freshKernels();
  const now = 1e12 - 1e12 % MINUTE + 15_000;
  assertEquals(k.limitReserve(1, 2, 101, 100, now), -1);
  assertEquals(k.limitReserve(1, 2, 100, 100, now), 0);
  const wait = k.limitReserve(1, 2, 10, 100, now);
  assert(wait > 0);
  assert(k.limitReserve(1, 2, 10, 100, now + wait - 500) > 0, "not before");
  assertEquals(k.limitReserve(1, 2, 10, 100, now + wait + 1), 0);
  assertEquals(k.limitUsed(1, 2, now + 10 * MINUTE), 0);
  assertEquals(k.limitUsed(2, 2, now), 0, "windows are a tenant's own");
  assertEquals(k.limitUsed(1, 1, now), 0);
});

Deno.test("limitSettle gives back across the end of a minute, and never below nothing", () => {
  const [{ exports: k }] = freshKernels();
  const end = 1e12 - 1e12 % MINUTE + MINUTE;
  k.limitReserve(1, 0, 80, 100, end - 10);
  k.limitSettle(1, 0, -50, end + 10);
  assert(Math.abs(k.limitUsed(1, 0, end + 10) - 30) < 0.1);
  k.limitSettle(1, 0, -1_000, end + 10);
  assertEquals(k.limitUsed(1, 0, end + 10), 0);
  k.limitSettle(1, 0, 5_000, end + 20);
  assert(k.limitReserve(1, 0, 1, 100, end + 20) > 0, "what was really used counts, above the limit too");
});

Deno.test("limitsAge: what was used hours ago does not count again, however the minutes are told", () => {
  for (let minutes = 1; minutes < 600; minutes++) {
    const [{ exports: k }] = freshKernels();
    const from = 1e12 + 59_999;
    assertEquals(k.limitReserve(1, 2, 80, 100, from), 0);
    for (let minute = 1; minute <= minutes; minute++) k.limitsAge(from + minute * MINUTE);
    const now = from + minutes * MINUTE;
    const used = k.limitUsed(1, 2, now);
    assert(minutes === 1 ? used < 80 : used === 0, `${used} after ${minutes} minutes`);
    // Another thread may still be in the minute before.
    if (minutes > 1) assertEquals(k.limitReserve(1, 2, 100, 100, now - MINUTE / 2), 0);
  }
});
