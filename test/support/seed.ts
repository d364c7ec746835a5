// SPDX-License-Identifier: Apache-2.0
// The seed of this run: AIGW_TEST_SEED or the date, printed so that a failure can be replayed.

export { Random } from "../../src/base/random.ts";

export const seed = Number(Deno.env.get("AIGW_TEST_SEED") ?? Math.floor(Date.now() / 1000));
console.log(`AIGW_TEST_SEED=${seed}`);
