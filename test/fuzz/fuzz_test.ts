// SPDX-License-Identifier: Apache-2.0
// A short run of every fuzz target in the gate; `deno task fuzz` runs as many cases as it is asked for.

import { Random, seed } from "../support/seed.ts";
import { TARGETS } from "./targets.ts";

const CASES = 1_500;

for (const [name, target] of Object.entries(TARGETS)) {
  Deno.test(`fuzz ${name}: ${CASES} cases`, async () => {
    for (let i = 0; i < CASES; i++) {
      const from = seed + i;
      try {
        await target(new Random(from));
      } catch (error) {
        throw new Error(`case ${from} of ${name}`, { cause: error });
      }
    }
  });
}
