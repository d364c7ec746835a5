// SPDX-License-Identifier: Apache-2.0

import { assertEquals, assertThrows } from "@std/assert";
import { type Clock, ManualClock } from "../../src/base/clock.ts";
import { coarse } from "../../src/base/coarse_clock.ts";

function parts() {
  const manual = new ManualClock();
  let wakes = 0;
  const counting: Clock = {
    now: () => manual.now(),
    wall: () => manual.wall(),
    shared: () => manual.shared(),
    after: (ms, callback) =>
      manual.after(ms, () => {
        wakes++;
        callback();
      }),
  };
  return { manual, clock: coarse(counting, 50), wakes: () => wakes };
}

Deno.test("coarse: recurring work of different intervals wakes once for all that is due", () => {
  const { manual, clock, wakes } = parts();
  const calls: Record<number, number> = {};
  const every = (ms: number): void => {
    clock.after(ms, () => {
      calls[ms] = (calls[ms] ?? 0) + 1;
      every(ms);
    });
  };
  for (const ms of [50, 100, 250, 500]) {
    manual.advance(7); // they begin at odd times
    every(ms);
  }
  manual.advance(1_000);
  const begun = wakes();
  for (const ms of Object.keys(calls)) delete calls[Number(ms)];
  manual.advance(10_000);
  assertEquals(calls, { 50: 200, 100: 100, 250: 40, 500: 20 });
  assertEquals(wakes() - begun, 200);
});

Deno.test("coarse: what is taken back is not called, short waits are exact, and one that throws keeps no other from its turn", () => {
  const { manual, clock } = parts();
  const called: string[] = [];
  const cancel = clock.after(100, () => called.push("taken back"));
  clock.after(100, () => {
    throw new Error("out of order");
  });
  clock.after(100, () => called.push("behind it"));
  clock.after(7, () => called.push(`at ${manual.now()}`));
  cancel();
  assertThrows(() => manual.advance(200), Error, "out of order");
  assertEquals(called, ["at 7", "behind it"]);
});
