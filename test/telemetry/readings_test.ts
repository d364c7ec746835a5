// SPDX-License-Identifier: Apache-2.0

import { assert, assertEquals } from "@std/assert";
import { ManualClock } from "../../src/base/clock.ts";
import { allCells, clearCells, ownCells } from "../../src/tables/metric_cells.ts";
import { CellLayout } from "../../src/telemetry/cells.ts";
import { Instruments } from "../../src/telemetry/instruments.ts";
import { ModelReadings } from "../../src/telemetry/readings.ts";
import { freshKernel } from "../support/kernel.ts";

const LAYOUT = new CellLayout({ models: 3, tenants: 2, endpoints: 2, metric_series: 64 });

Deno.test("ModelReadings: means are of lately, and of all time while lately is too little", () => {
  const kernel = freshKernel({ metricCells: LAYOUT.count });
  const instruments = new Instruments(ownCells(kernel), LAYOUT);
  const clock = new ManualClock();
  const readings = new ModelReadings(allCells(kernel), LAYOUT, clock);
  const answers = (count: number, seconds: number, completionTokens: number) => {
    for (let i = 0; i < count; i++) {
      instruments.ended({ model: 1, path: "/v1/chat/completions", outcome: "ok", tenant: 0, seconds });
      instruments.usage(1, { promptTokens: 1, completionTokens }, true);
      instruments.firstToken(1, true, seconds);
    }
  };
  const means = () => [readings.meanDuration(1), readings.meanCompletion(1), readings.ttftPercentile(1, 90)];
  assertEquals(means(), [0, 0, undefined]);
  // A long life of short answers, looked at every minute.
  for (let minute = 0; minute < 600; minute++) {
    answers(60, 2, 100);
    clock.advance(60_000);
    assertEquals(means().slice(0, 2), [2, 100]);
  }
  // Answers become longer: twenty minutes later they are what is known.
  for (let minute = 0; minute < 25; minute++) {
    answers(60, 60, 3_000);
    clock.advance(60_000);
    means();
  }
  assertEquals(means().slice(0, 2), [60, 3_000]);
  assert(readings.ttftPercentile(1, 90)! >= 60);
  // Nobody asks for it for an hour, then a few do: that is too little.
  for (let minute = 0; minute < 60; minute++) {
    clock.advance(60_000);
    means();
  }
  answers(10, 1, 1);
  const [duration, completion] = means() as number[];
  assert(duration > 2 && duration < 60 && completion > 100 && completion < 3_000, `${duration} ${completion}`);
  // The row becomes another model's.
  clearCells(kernel, ...LAYOUT.cellsOf("model", 1));
  assertEquals(means(), [0, 0, undefined]);
  answers(60, 5, 7);
  assertEquals(means().slice(0, 2), [5, 7]);
  assertEquals([readings.meanDuration(0), readings.meanDuration(2)], [0, 0]);
});
