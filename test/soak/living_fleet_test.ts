// SPDX-License-Identifier: Apache-2.0
// A short run of the soak, so that it cannot rot: the long one is a task of its own.

import { assertEquals } from "@std/assert";
import { soakLivingFleet } from "./living_fleet.ts";

for (const by of ["reload", "file", "dns"] as const) {
  Deno.test(`a fleet that changes under load loses nothing: by ${by}`, async () => {
    const { failed, rows } = await soakLivingFleet({ by, seconds: 3, requestsPerSecond: 60, changes: 10 });
    assertEquals(failed, []);
    assertEquals([rows.clusters, rows.endpoints], [1, 16], "rows are given in groups of 16");
  });
}
