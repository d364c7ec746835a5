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

Deno.test("WatchStreams: what a gateway read of an engine goes to the others, and is not kept for those who come later", async () => {
  const center = new Center(new ManualClock(), DEFAULT_CENTER_LIMITS);
  const streams = new WatchStreams(center, { coalesceMs: 0 });
  try {
    const [own, other] = [streams.open("c", "a", 0), streams.open("c", "b", 0)];
    const report = { signals: { waiting: 3 }, ageMs: 5, costMs: 7 };
    center.reported({ cluster: "c", host: "10.0.0.1", port: 1, report, gateway: "a" });
    center.reported({ cluster: "unknown", host: "10.0.0.1", port: 1, report, gateway: "a" });
    const late = streams.open("c", "c", 0);
    streams.close();
    const text = async (stream: Response) => (await new Response(stream.body).text()).match(/event: report\ndata: .*/g);
    assertEquals(await text(own), null);
    assertEquals(await text(other), [
      'event: report\ndata: {"ip":"10.0.0.1","port":1,"signals":{"waiting":3},"age_ms":5,"cost_ms":7}',
    ]);
    assertEquals(await text(late), null);
  } finally {
    streams.close();
  }
});
