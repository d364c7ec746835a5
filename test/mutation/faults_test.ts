// SPDX-License-Identifier: Apache-2.0
// The list of faults fits the code: what changes there has to change here, or a fault tests nothing any more.

import { assertEquals } from "@std/assert";
import { FAULTS } from "./faults.ts";

const root = new URL("../../", import.meta.url);

Deno.test("every fault's place is there, once, and its tests are", () => {
  const wrong = FAULTS.filter(({ file, was }) => Deno.readTextFileSync(new URL(file, root)).split(was).length !== 2);
  assertEquals(wrong.map(({ name }) => name), []);
  for (const { tests } of FAULTS) for (const test of tests) Deno.statSync(new URL(test, root));
});
