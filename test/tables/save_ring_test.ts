// SPDX-License-Identifier: Apache-2.0

import { assert, assertEquals } from "@std/assert";
import { readSaves, SaveRingWriter, setSharing } from "../../src/tables/save_ring.ts";
import { freshKernels } from "../support/kernel.ts";
import { Random, seed } from "../support/seed.ts";

Deno.test("save ring: every record is read once and whole, or counted as dropped, whatever the reader's pace", () => {
  const random = new Random(seed);
  const [control, worker] = freshKernels({ ringWords: 256 });
  const writer = new SaveRingWriter(worker);
  writer.write(1, 1, 1, new Int32Array(2));
  assertEquals(readSaves(control, 1), [], "nobody wants to know");
  setSharing(control, true);
  let [dropped, read, ahead] = [0, 0, 0];
  const expected: { row: number; salt: number; hashes: bigint[] }[] = [];
  for (let i = 1; i <= 5_000; i++) {
    const hashes = Array.from({ length: random.below(40) }, (_, j) => BigInt(i) << 32n | BigInt(j));
    const before = writer.dropped;
    const words = new Int32Array(new BigInt64Array(hashes).buffer);
    writer.write(i, i * 7, hashes.length, words);
    if (writer.dropped === before) expected.push({ row: i, salt: i * 7, hashes });
    else dropped++;
    ahead = Math.max(ahead, expected.length - read);
    // A reader that comes seldom, and then takes a few or all.
    if (!random.chance(0.1)) continue;
    const most = random.chance(0.5) ? 2 : 1_000;
    const records = readSaves(control, 1, most);
    assertEquals(records, expected.slice(read, read + records.length));
    read += records.length;
    assert(records.length === most || read === expected.length);
  }
  assert(dropped > 100 && read > 100 && ahead > 5, `${dropped} ${read} ${ahead}`);
});
