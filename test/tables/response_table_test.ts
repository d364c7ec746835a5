// SPDX-License-Identifier: Apache-2.0
import { assert, assertEquals } from "@std/assert";
import { ResponseTable } from "../../src/tables/response_table.ts";
import { freshKernels } from "../support/kernel.ts";

Deno.test("ResponseTable: what one worker stores another finds; the newest wins; a full table forgets and never mixes up", () => {
  const [a, b] = freshKernels({ responses: 512 }).map((kernel) => new ResponseTable(kernel));
  a.set("resp_1", 3, 8);
  assertEquals(b.get("resp_1"), { row: 3, generation: 8 });
  b.set("resp_1", 4, 10);
  assertEquals(a.get("resp_1"), { row: 4, generation: 10 });
  assertEquals(a.get("resp_2"), undefined);
  for (let i = 0; i < 5_000; i++) (i % 2 ? a : b).set(`resp_x${i}`, i, 2 * i);
  a.set("resp_6dac97bb572b", 1, 2);
  assertEquals(b.get("resp_1954d072e212"), undefined, "one 32-bit hash is the same");
  let found = 0;
  for (let i = 0; i < 5_000; i++) {
    const entry = a.get(`resp_x${i}`);
    if (entry === undefined) continue;
    assertEquals(entry, { row: i, generation: 2 * i });
    found++;
  }
  assert(found > 300 && found <= 512, `${found} of 512 places are filled`);
});
