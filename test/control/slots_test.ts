// SPDX-License-Identifier: Apache-2.0
import { assert, assertEquals } from "@std/assert";
import { SlotLimit, type SlotReading } from "../../src/control/slots.ts";

const reading = (more: Partial<SlotReading>): SlotReading => ({
  waiting: 0,
  running: 0,
  remote: 0,
  prefilling: false,
  oldestMs: 5_000,
  generated: undefined,
  atMs: 0,
  ...more,
});

Deno.test("SlotLimit: a burst finds few slots at first, more as they are used, none where nobody ever waits", () => {
  const slots = new SlotLimit(undefined);
  assertEquals([slots.observe(reading({})), slots.pressed(7), slots.pressed(8)], [32, false, true]);
  const limits = [16, 40, 128, 200, 500].map((running) => slots.observe(reading({ running })));
  assertEquals(limits, [64, 128, 256, 512, 1_024]);
  assertEquals([slots.observe(reading({ running: 600 })), slots.pressed(900)], [undefined, false]);
});

Deno.test("SlotLimit: requests that wait beside little prefill work tell how many run; the limit then grows slowly", () => {
  const slots = new SlotLimit(undefined);
  assertEquals(slots.observe(reading({ running: 8, waiting: 22 })), 8);
  assertEquals(slots.pressed(100), false);
  assertEquals(slots.observe(reading({ running: 2 })), 8, "it is not reached");
  assertEquals(slots.observe(reading({ running: 8 })), 9);
  assertEquals(slots.observe(reading({ running: 8, waiting: 1 })), 8);
  assertEquals(slots.observe(reading({ remote: 5, running: 8, waiting: 4 })), 3, "others use them too");
  assertEquals(slots.observe(reading({ remote: 20, running: 8, waiting: 4 })), 1);
  slots.forget();
  assertEquals(slots.observe(reading({})), 32);
});

Deno.test("SlotLimit: who came during a step waits for the next one; beyond some of them it is for a slot", () => {
  const slots = new SlotLimit(undefined);
  // 40 sequences, 40 tokens each 250 ms.
  const at = (step: number, more: Partial<SlotReading>) =>
    slots.observe(reading({ running: 40, generated: 40 * step, atMs: 250 * step, ...more }));
  assertEquals(at(0, { waiting: 3, oldestMs: 900 }), 32, "nothing is known of steps, and a second is not over");
  assertEquals(at(1, { waiting: 3, oldestMs: 900 }), 32);
  assertEquals(at(2, { waiting: 3, oldestMs: 1_001 }), 40);
  const silent = new SlotLimit(undefined);
  assertEquals([990, 1_010].map((oldestMs) => silent.observe(reading({ running: 9, waiting: 1, oldestMs }))), [32, 9]);
  assertEquals(new SlotLimit(undefined).observe(reading({ running: 9, waiting: 1, oldestMs: 0 })), 32, "none of ours");
});

Deno.test("SlotLimit: requests that wait for a long prefill say nothing of slots", () => {
  const slots = new SlotLimit(undefined);
  assertEquals(slots.observe(reading({ running: 1, waiting: 4, prefilling: true })), 32);
});

Deno.test("SlotLimit: engines that tell nothing have none, a configured figure holds", () => {
  const silent = new SlotLimit(undefined);
  assertEquals(silent.observe(reading({ waiting: undefined })), undefined);
  const fixed = new SlotLimit(4);
  assertEquals(fixed.observe(reading({ running: 9, waiting: 9, remote: 1 })), 3);
  assert(!fixed.pressed(100));
});
