// SPDX-License-Identifier: Apache-2.0

import { assertEquals } from "@std/assert";
import { ManualClock } from "../../src/base/clock.ts";
import { Center, DEFAULT_CENTER_LIMITS } from "../../src/metadata/center.ts";
import { WatchStreams } from "../../src/metadata/watch_streams.ts";

Deno.test("WatchStreams: a watcher that reads nothing is let go, and leaves nothing behind", async () => {
  const center = new Center(new ManualClock(), DEFAULT_CENTER_LIMITS);
  const streams = new WatchStreams(center, { unread: 4, coalesceMs: 0 });
  try {
    const [reading, silent] = [streams.open("c", undefined, 0), streams.open("c", undefined, 0)];
    const reader = reading.body!.getReader();
    await reader.read(); // the snapshot
    for (let i = 1; i <= 20; i++) {
      center.saveCache({ cluster: "c", host: "10.0.0.1", hashes: [BigInt(i)] });
      await reader.read();
    }
    assertEquals(streams.count, 1);
    let got = 0;
    for await (const _ of silent.body!) got++;
    assertEquals(got, 4, "what was sent before, and the end");
    await reader.cancel();
    assertEquals(streams.count, 0);
  } finally {
    streams.close();
  }
});
