// SPDX-License-Identifier: Apache-2.0
// The stream behind the page, and the history that it begins with, on a manual clock.

import { assert, assertEquals } from "@std/assert";
import { type LiveEndpoint, LiveEvents, type LiveState } from "../../src/admin/live_events.ts";
import { quantile, TrafficHistory, type TrafficTotals } from "../../src/admin/traffic_history.ts";
import { ManualClock } from "../../src/base/clock.ts";
import type { ShownDecision } from "../../src/gateway/decision_watch.ts";
import { DURATION_BUCKETS } from "../../src/telemetry/cells.ts";

const NOTHING: TrafficTotals = {
  requests: 0,
  errors: 0,
  completionTokens: 0,
  promptTokens: 0,
  cachedTokens: 0,
  ttft: new Array(DURATION_BUCKETS.length + 1).fill(0),
  waiting: 0,
  saturation: 0,
};

Deno.test("TrafficHistory: rates of what came between two samples, ten minutes of them", () => {
  const clock = new ManualClock(1_000_000);
  let totals = NOTHING;
  const history = new TrafficHistory(clock, () => totals);
  history.start();
  assertEquals(history.samples, []);
  const ttft = [...NOTHING.ttft];
  ttft[6] = 9; // from 50 to 100 ms
  ttft[8] = 1;
  totals = { ...NOTHING, requests: 20, errors: 4, completionTokens: 100, promptTokens: 50, cachedTokens: 40, ttft };
  clock.advance(2_000);
  const [sample] = history.samples;
  assertEquals([sample.requests, sample.errors, sample.tokens, sample.cached], [10, 2, 50, 0.8]);
  assert(sample.ttft50! > 0.05 && sample.ttft50! < 0.1 && sample.ttft95! > 0.25 && sample.ttft95! <= 0.5);
  // A model that went took its counts along.
  totals = { ...NOTHING, requests: 5 };
  clock.advance(2_000);
  assertEquals(history.samples[1], {
    ...history.samples[1],
    requests: 0,
    errors: 0,
    tokens: 0,
    cached: null,
    ttft50: null,
  });
  clock.advance(2_000 * 400);
  assertEquals(history.samples.length, 300);
  history.stop();
  clock.advance(10_000);
  assertEquals(history.samples.length, 300);
});

Deno.test("quantile is within its bucket", () => {
  const counts = [...NOTHING.ttft];
  assertEquals(quantile(counts, 0.5), null);
  counts[0] = 10;
  assertEquals(quantile(counts, 0.5), DURATION_BUCKETS[0] / 2);
  counts.fill(0);
  counts[DURATION_BUCKETS.length] = 1;
  assertEquals(quantile(counts, 0.5), DURATION_BUCKETS.at(-1));
});

const endpoint = (name: string, state = "available"): LiveEndpoint => ({
  cluster: "c",
  endpoint: name,
  state,
  why: "",
  in_flight: 0,
  remote_in_flight: 0,
  waiting: null,
  running: null,
  kv_usage: null,
  prefix_hit_ratio: null,
  ttft: null,
  dispatched: 0,
  failed: 0,
  labels: "",
});

const STATE: LiveState = { version: "1", not_ready: null, workers: 1, clusters: [], tenants: [] };

function parts() {
  const clock = new ManualClock(1_000_000);
  const fleet = { endpoints: [endpoint("a:1"), endpoint("b:1")] };
  const watched: boolean[] = [];
  const traffic = new TrafficHistory(clock, () => NOTHING);
  const live = new LiveEvents({
    clock,
    traffic,
    state: () => STATE,
    endpoints: () => fleet.endpoints,
    watch: (open) => watched.push(open),
  });
  return { clock, fleet, watched, live, traffic };
}

/** Reads what has been sent so far. */
async function read(reader: ReadableStreamDefaultReader<Uint8Array>, count: number) {
  const events: [string, unknown][] = [];
  for (let i = 0; i < count; i++) {
    const text = new TextDecoder().decode((await reader.read()).value);
    const [, event, data] = /^event: (.*)\ndata: (.*)\n\n$/.exec(text)!;
    events.push([event, JSON.parse(data)]);
  }
  return events;
}

Deno.test("LiveEvents: the whole first, then what changes; decisions are wanted while a page is open", async () => {
  const { clock, fleet, watched, live } = parts();
  const first = live.open()!.getReader();
  const whole = await read(first, 4);
  assertEquals(whole.map(([event]) => event), ["traffic", "decisions", "state", "endpoints"]);
  assertEquals(whole[3][1], { whole: true, changed: fleet.endpoints, gone: [] });
  fleet.endpoints = [endpoint("b:1", "unhealthy"), endpoint("c:1")];
  clock.advance(500);
  const changes = await read(first, 2);
  assertEquals(changes[1][1], { whole: false, changed: fleet.endpoints, gone: ["c a:1"] });
  clock.advance(500);
  assertEquals((await read(first, 2))[1][1], { whole: false, changed: [], gone: [] });
  const second = live.open()!.getReader();
  live.decided({ request_id: "1" } as ShownDecision);
  const names = ["traffic", "decisions", "state", "endpoints", "decisions"];
  assertEquals((await read(second, 5)).map(([event]) => event), names);
  assertEquals((await read(first, 1))[0], ["decisions", { whole: false, decisions: [{ request_id: "1" }] }]);
  await first.cancel();
  assertEquals(watched, [true]);
  await second.cancel();
  assertEquals(watched, [true, false]);
  // A page that opens later is told of the decisions before it.
  const third = live.open()!.getReader();
  const again = await read(third, 4);
  assertEquals(again.map(([event]) => event), ["traffic", "decisions", "state", "endpoints"]);
  assertEquals(again[0][1], { whole: true, samples: [] });
  assertEquals(again[1][1], { whole: true, decisions: [{ request_id: "1" }] });
  live.stop();
  assertEquals([(await third.read()).done, watched], [true, [true, false, true, false]]);
  clock.advance(10_000);
});

Deno.test("LiveEvents: a page that does not read holds nothing up, and is told all when it reads again", async () => {
  const { clock, fleet, live } = parts();
  const reader = live.open()!.getReader();
  for (let i = 0; i < 200; i++) clock.advance(500);
  fleet.endpoints = [endpoint("z:1")];
  const kept = await read(reader, 64);
  assert(kept.length === 64);
  clock.advance(500);
  assertEquals((await read(reader, 2))[1], ["endpoints", { whole: true, changed: [endpoint("z:1")], gone: [] }]);
  live.stop();
});

Deno.test("LiveEvents: there are only so many pages", () => {
  const { live } = parts();
  for (let i = 0; i < 32; i++) assert(live.open() !== undefined);
  assertEquals(live.open(), undefined);
  live.stop();
  assert(live.open() !== undefined);
  live.stop();
});
