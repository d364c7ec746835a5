// SPDX-License-Identifier: Apache-2.0
import { assertEquals } from "@std/assert";
import { ManualClock } from "../../src/base/clock.ts";
import { type Deadline, Deadlines } from "../../src/base/deadlines.ts";
import { formatAddress, isLoopback, parseAddress } from "../../src/base/address.ts";
import { Random, seed } from "../support/seed.ts";

Deno.test("Deadlines expire once, within a tick, and not at all when unwatched", () => {
  const random = new Random(seed);
  const clock = new ManualClock();
  const deadlines = new Deadlines(clock, 10);
  const items = Array.from({ length: 200 }, () => {
    const item = { deadline: random.below(1_000), place: -1, expiredAt: [] as number[], expire: () => {} };
    item.expire = () => item.expiredAt.push(clock.now());
    deadlines.watch(item satisfies Deadline);
    return item;
  });
  const kept = items.filter((item) => {
    if (random.chance(0.3)) {
      deadlines.unwatch(item);
      deadlines.unwatch(item);
      return false;
    }
    return true;
  });
  clock.advance(2_000);
  for (const item of items) {
    const expected = kept.includes(item) ? [Math.max(10, Math.ceil(item.deadline / 10) * 10)] : [];
    assertEquals(item.expiredAt, expected);
  }
  assertEquals(deadlines.size, 0);
});

Deno.test("addresses: HOST:PORT both ways, IPv6 in brackets", () => {
  for (const text of ["127.0.0.1:80", "[::1]:65535", "a.b-c:0"]) assertEquals(formatAddress(parseAddress(text)!), text);
  for (const text of ["", "host", "host:", ":80", "host:70000", "::1:80", "http://x:1", "a b:1"]) {
    assertEquals(parseAddress(text), undefined);
  }
  assertEquals(["127.9.9.9", "::1", "localhost", "0.0.0.0", "10.0.0.1"].map(isLoopback), [
    true,
    true,
    true,
    false,
    false,
  ]);
});
