// SPDX-License-Identifier: Apache-2.0
// The load generator: what it says of answers, failures and times.

import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { Random } from "../../src/base/random.ts";
import { baseOf, firstModel, measure, type Measured } from "../../src/load/client.ts";
import { sendAll } from "../../src/load/generator.ts";
import { freshText, traceText } from "../../src/load/prompts.ts";
import { reportOf, tableOf } from "../../src/load/report.ts";
import { startEngines } from "../support/gateway.ts";
import { gate } from "../support/until.ts";

const ONE: Measured = {
  failure: undefined,
  ttftMs: 10,
  totalMs: 30,
  outputTokens: 3,
  promptTokens: 100,
  cachedTokens: 40,
};

Deno.test("a request is measured: tokens, usage, and why it failed", async () => {
  await using engines = startEngines(1, { speed: 50 });
  const [{ address }] = engines;
  const url = `http://127.0.0.1:${address.port}`;
  const target = { url, model: "m", apiKey: undefined };
  const load = { prompt: "Hello ".repeat(100), maxTokens: 7, ignoreEos: false };
  const well = await measure(target, load);
  assertEquals([well.failure, well.outputTokens], [undefined, 7]);
  assert(well.ttftMs > 0 && well.ttftMs <= well.totalMs && well.promptTokens > 50 && well.cachedTokens >= 0);
  const fault = (value: unknown) => fetch(`${url}/faults`, { method: "POST", body: JSON.stringify(value) });
  for (
    const [value, failure] of [
      [{ kind: "status", status: 503 }, "503"],
      [{ kind: "cut" }, "connection lost"],
      [{ kind: "error_chunk" }, undefined],
    ] as const
  ) {
    await (await fault(value)).body?.cancel();
    const failed = await measure(target, load);
    assert(failed.failure !== undefined, JSON.stringify(value));
    if (failure !== undefined) assertStringIncludes(failed.failure, failure);
  }
  await using named = startEngines(1, { models: ["first", "second"] });
  const listing = `http://127.0.0.1:${named[0].address.port}`;
  assertEquals(await firstModel({ url: listing, apiKey: undefined }), "first");
  await assertRejects(() => firstModel({ url: `${url}/nothing`, apiKey: undefined }), Error, "name one");
});

Deno.test("the base of an API is found with /v1 and without", () => {
  for (const url of ["http://a:1", "http://a:1/", "http://a:1/v1", "http://a:1/v1/"]) {
    assertEquals(baseOf(url), "http://a:1/v1");
  }
});

Deno.test("a report: failures by reason, spreads of what was answered, shares where they are told", () => {
  const failed = { ...ONE, failure: "429 saturated", ttftMs: NaN };
  const report = reportOf([ONE, { ...ONE, ttftMs: 20, outputTokens: 1 }, failed, failed], 2);
  assertEquals([report.requests, report.answered, report.failures], [4, 2, { "429 saturated": 2 }]);
  assertEquals([report.requests_per_s, report.output_tokens_per_s, report.cached], [1, 2, 0.4]);
  assertEquals(report.ttft_ms, { mean: 15, p50: 10, p90: 20, p99: 20, max: 20 });
  assertEquals(report.tpot_ms?.mean, 10);
  assertStringIncludes(tableOf(report), "failed: 2 x 429 saturated");
  const silent = reportOf([{ ...ONE, promptTokens: NaN, cachedTokens: NaN }], 1);
  assertEquals([silent.prompt_tokens, silent.cached], [null, null]);
  const none = reportOf([failed], 1);
  assertEquals([none.ttft_ms, none.answered], [null, 0]);
  assertStringIncludes(tableOf(none), "0 of 1");
});

Deno.test("prompts are of their lengths, and equal where blocks are", () => {
  const random = new Random(1);
  assertEquals([freshText(random, 10).length, freshText(random, 1).length], [40, 4]);
  assert(freshText(random, 50) !== freshText(random, 50));
  const [a, b] = [[1, 2, 3], [1, 2, 4]].map((blocks) => traceText({ blocks, inputTokens: 1_100 }));
  assertEquals([a.length, a.slice(0, 4_096) === b.slice(0, 4_096), a === b], [4_400, true, false]);
});

Deno.test("no more are under way than may be, and a stop lets those finish", async () => {
  const open = gate();
  let [underWay, most] = [0, 0];
  const run = async () => {
    most = Math.max(most, ++underWay);
    await open.opened;
    underWay--;
    return ONE;
  };
  const stop = new AbortController();
  const told: number[] = [];
  const sending = sendAll(
    Array.from({ length: 10 }, () => ({ at: undefined, run })),
    3,
    (ended) => {
      told.push(ended);
      if (ended === 4) stop.abort();
    },
    stop.signal,
  );
  open.open();
  const { measured } = await sending;
  assert(most <= 3 && measured.length >= 4 && measured.length < 10, `${most} ${measured.length}`);
  assertEquals(told, measured.map((_, i) => i + 1));
});

Deno.test(
  "a stop ends the wait for a place and for a time",
  { sanitizeOps: false, sanitizeResources: false },
  async () => {
    for (const at of [undefined, 3_600_000]) {
      const open = gate();
      const stop = new AbortController();
      const run = async () => {
        await open.opened;
        return ONE;
      };
      const jobs = [{ at: undefined, run }, { at, run }, { at, run }];
      const sending = sendAll(jobs, at === undefined ? 1 : 3, () => {}, stop.signal);
      await new Promise((resolve) => setTimeout(resolve));
      stop.abort();
      open.open();
      assertEquals((await sending).measured.length, 1);
    }
  },
);
