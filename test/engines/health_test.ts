// SPDX-License-Identifier: Apache-2.0
import { assert, assertEquals } from "@std/assert";
import { EndpointHealth } from "../../src/engines/health.ts";
import { Random, seed } from "../support/seed.ts";

const LIMITS = { consecutiveFailures: 3, ejectMs: 100, maxEjectMs: 350, unhealthyAfter: 2, healthyAfter: 1 };
const counts = (failures = 0, successes = 0, requests = 0) => ({ failures, successes, requests });

Deno.test("EndpointHealth: ejected by failures in a row, on trial after a time that doubles, back by one success", () => {
  const health = new EndpointHealth(LIMITS);
  assertEquals(health.counted(counts(2), 0, true), undefined);
  assertEquals(health.state, "available");
  let now = 0;
  for (const time of [100, 200, 350, 350]) {
    health.counted(counts(3, 7), now, true);
    assertEquals(health.state, "ejected");
    health.counted(counts(3, 7), now + time - 1, true);
    assertEquals(health.state, "ejected");
    now += time;
    assertEquals(health.counted(counts(3, 7), now, true), "offer");
    assertEquals(health.state, "trial");
  }
  assertEquals(health.counted(counts(0, 7, 1), now, true), undefined, "its request is under way");
  assertEquals(health.counted(counts(0, 7, 1), now + 200, true), "offer", "old requests do not hold it back for ever");
  assertEquals(health.counted(counts(0, 7, 0), now, true), "offer", "the request was lost: another may try");
  health.counted(counts(0, 8, 0), now + 5, true);
  assertEquals([health.state, health.availableSince, health.ejections], ["available", now + 5, 4]);
  health.counted(counts(0, 9), now + 1_000, true);
  assertEquals(health.ejections, 0, "a good while forgives");
});

Deno.test("EndpointHealth: the cluster's last is not ejected; probes and draining take precedence", () => {
  const health = new EndpointHealth(LIMITS);
  health.counted(counts(99), 0, false);
  assertEquals(health.state, "available");
  health.probed(false, 1);
  assertEquals(health.state, "available");
  health.probed(false, 2);
  assertEquals(health.state, "unhealthy");
  health.drain();
  assertEquals(health.state, "draining");
  health.probed(true, 3);
  assertEquals(health.state, "draining");
  health.resume();
  assertEquals([health.state, health.availableSince], ["available", 3]);
  const never = new EndpointHealth({ ...LIMITS, consecutiveFailures: 0 });
  never.counted(counts(1_000), 0, true);
  assertEquals(never.state, "available");
});

Deno.test("EndpointHealth: who is needed is on trial at once", () => {
  const health = new EndpointHealth(LIMITS);
  health.counted(counts(3), 0, true);
  assertEquals(health.counted(counts(3), 1, true), undefined);
  assertEquals(health.counted(counts(3), 2, false, true), "offer");
  assertEquals(health.state, "trial");
});

Deno.test("EndpointHealth: any order of events ends in a state that recovers", () => {
  const random = new Random(seed);
  for (let round = 0; round < 300; round++) {
    const health = new EndpointHealth(LIMITS);
    let now = 0;
    let successes = 0;
    for (let i = 0; i < 50; i++) {
      now += random.below(200);
      const event = random.below(10);
      const seen = counts(random.below(6), successes += random.below(2), random.below(2));
      if (event < 3) health.probed(random.chance(0.5), now);
      else if (event === 3) health.drain();
      else if (event === 4) health.resume();
      else health.counted(seen, now, random.chance(0.8), random.chance(0.1));
    }
    health.resume();
    health.probed(true, now);
    for (let i = 0; i < 5; i++) health.counted(counts(0, successes + i), now += 400, true);
    assert(health.state === "available", `round ${round}: ${health.state}`);
  }
});
