// SPDX-License-Identifier: Apache-2.0
import { assert, assertEquals } from "@std/assert";
import { SlotLimit, type SlotReading } from "../../src/control/slots.ts";

const reading = (more: Partial<SlotReading>): SlotReading => ({
  waiting: 0,
  running: 0,
  remote: 0,
  prefilling: false,
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
