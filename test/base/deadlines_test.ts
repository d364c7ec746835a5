// SPDX-License-Identifier: Apache-2.0
import { assertEquals, assertThrows } from "@std/assert";
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

Deno.test("Deadlines: one that expires may let another go, or give it more time, in the same tick", () => {
  const clock = new ManualClock();
  const deadlines = new Deadlines(clock, 10);
  const expired: string[] = [];
  const item = (name: string): Deadline => ({ deadline: 5, place: -1, expire: () => void expired.push(name) });
  const [gone, later] = [item("gone"), item("later")];
  const first: Deadline = {
    deadline: 5,
    place: -1,
    expire() {
      expired.push("first");
      deadlines.unwatch(gone);
      later.deadline = 100;
    },
  };
  for (const one of [first, gone, later]) deadlines.watch(one);
  clock.advance(90);
  assertEquals(expired, ["first"]);
  clock.advance(20);
  assertEquals([expired, deadlines.size], [["first", "later"], 0]);
});

Deno.test("Deadlines: one that throws costs the others nothing", () => {
  const clock = new ManualClock();
  const deadlines = new Deadlines(clock, 10);
  let expired = 0;
  deadlines.watch({
    deadline: 5,
    place: -1,
    expire() {
      throw new Error("broken");
    },
  });
  deadlines.watch({ deadline: 5, place: -1, expire: () => void expired++ });
  assertThrows(() => clock.advance(10), Error, "broken");
  deadlines.watch({ deadline: 25, place: -1, expire: () => void expired++ });
  clock.advance(50);
  assertEquals([expired, deadlines.size], [2, 0]);
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
