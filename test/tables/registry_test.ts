// SPDX-License-Identifier: Apache-2.0
import { assert, assertEquals, assertThrows } from "@std/assert";
import { FreeRows, type NamedRow, Registry, RegistryFull } from "../../src/tables/registry.ts";
import { Random, seed } from "../support/seed.ts";

Deno.test("Registry: a retired name keeps its row until nobody uses an older snapshot, and gets it back before that", () => {
  const registry = new Registry("things", new FreeRows(2, 4));
  const a = registry.acquire("a");
  const b = registry.acquire("b");
  assertEquals([a.row, b.row], [2, 3]);
  assertThrows(() => registry.acquire("c"), RegistryFull, "there are 2 things");
  registry.retire("a", 5);
  assertThrows(() => registry.acquire("c"), RegistryFull, "1 of them of names that requests under way still use");
  assertEquals(registry.reclaim(4, () => true), [], "snapshot 4 is still in use");
  assertEquals(registry.acquire("a"), a, "it comes back to its row and generation");
  registry.retire("a", 7);
  assertEquals(registry.reclaim(7, () => false), [], "something is still on the row");
  assertEquals(registry.reclaim(7, () => true), ["a"]);
  assert(!registry.current(a), "who kept the old row sees that it is over");
  const c = registry.acquire("c");
  assertEquals(c.row, a.row);
  assert(c.generation !== a.generation && registry.current(c) && registry.current(b));
});

Deno.test("Registry: the row that has been free longest is given first", () => {
  const registry = new Registry("things", new FreeRows(0, 3));
  for (const name of ["a", "b", "c"]) registry.acquire(name);
  for (const name of ["b", "a"]) {
    registry.retire(name, 1);
    registry.reclaim(1, () => true);
  }
  assertEquals([registry.acquire("d").row, registry.acquire("e").row], [1, 0]);
});

// Readers begin under the newest snapshot, keep the rows that it names, and end in any order: none ever sees a row change
// hands while it holds it, and whoever keeps a row for longer than that is told by its generation.
Deno.test("Registry: random snapshots against a model, 100,000 steps: rows never alias, generations catch the stale", () => {
  const random = new Random(seed);
  const rows = 12;
  const registry = new Registry("things", new FreeRows(0, rows));
  const names = Array.from({ length: 30 }, (_, i) => `n${i}`);
  let version = 0;
  let current = new Map<string, NamedRow>();
  const readers = new Set<{ version: number; rows: Map<string, NamedRow> }>();
  const owner = new Map<number, string>();
  const stale: { name: string; row: NamedRow }[] = [];
  const oldest = () => Math.min(version, ...[...readers].map((reader) => reader.version));
  for (let step = 0; step < 100_000; step++) {
    const action = random.below(10);
    if (action < 3) {
      // A new snapshot: some names, at most half of the rows, so that retired ones have room.
      const wanted = new Set(Array.from({ length: random.below(rows / 2 + 1) }, () => random.pick(names)));
      const before = registry.rows();
      try {
        const next = new Map<string, NamedRow>();
        for (const name of wanted) next.set(name, { ...registry.acquire(name) });
        version++;
        for (const name of registry.rows().keys()) if (!wanted.has(name)) registry.retire(name, version);
        current = next;
      } catch (error) {
        assert(error instanceof RegistryFull, String(error));
        // Refused as a whole: what was taken for it is given back.
        for (const name of registry.rows().keys()) if (!before.has(name)) registry.retire(name, version);
      }
      for (const [name, { row }] of registry.all) {
        const other = owner.get(row);
        assert(other === undefined || other === name, `row ${row} is ${other}'s and ${name}'s`);
        owner.set(row, name);
      }
    } else if (action < 6) readers.add({ version, rows: current });
    else if (action < 9 && readers.size > 0) {
      const reader = random.pick([...readers]);
      for (const [name, row] of reader.rows) {
        assert(registry.current(row), `step ${step}: ${name} lost its row while a request used it`);
        assertEquals(registry.get(name)?.row, row.row);
      }
      readers.delete(reader);
      if (random.chance(0.1)) { for (const [name, row] of reader.rows) stale.push({ name, row }); }
    } else {
      for (const name of registry.reclaim(oldest(), () => random.chance(0.8))) {
        for (const [row, its] of owner) if (its === name) owner.delete(row);
      }
    }
    if (stale.length > 50) stale.shift();
    for (const { name, row } of stale) {
      const now = registry.get(name);
      const same = now !== undefined && now.row === row.row && now.generation === row.generation;
      assertEquals(registry.current(row), same, `step ${step}: ${name}`);
    }
  }
});
