// SPDX-License-Identifier: Apache-2.0
import { assertEquals } from "@std/assert";
import { Limits, WINDOWS } from "../../src/admission/limits.ts";
import type { Tenant } from "../../src/admission/tenants.ts";
import { ManualClock } from "../../src/base/clock.ts";
import { LostRequests } from "../../src/control/lost_requests.ts";
import { EndpointTable } from "../../src/tables/endpoint_table.ts";
import { sumCells } from "../../src/tables/metric_cells.ts";
import { RequestTable } from "../../src/tables/request_table.ts";
import { CellLayout } from "../../src/telemetry/cells.ts";
import { readTenant } from "../../src/telemetry/readings.ts";
import { readSeries } from "../../src/telemetry/request_series.ts";
import { Log } from "../../src/telemetry/log.ts";
import { freshKernels } from "../support/kernel.ts";

const LAYOUT = new CellLayout({ models: 2, tenants: 4, endpoints: 1, metric_series: 64 });

Deno.test("LostRequests: a dead worker's requests are counted, their limits settled, their load released", () => {
  const [control, worker] = freshKernels({ metricCells: LAYOUT.count });
  const clock = new ManualClock(1_000_000);
  const endpoints = new EndpointTable(control);
  const endpoint = endpoints.add(0, { hostname: "engine", port: 1 }, 1_000, 0);
  const requests = new RequestTable(worker);
  const limits = new Limits(worker, clock.shared.bind(clock));
  const tenant = {
    row: 2,
    name: "gold",
    priority: 0,
    models: undefined,
    limits: { requests_per_minute: 100, input_tokens_per_minute: 10_000, output_tokens_per_minute: 10_000 },
  } as Tenant;
  const used = () => WINDOWS.map((_, window) => control.exports.limitUsed(tenant.row, window, clock.shared()));
  // One that waits, one that was granted, one that its engine is at.
  for (let i = 0; i < 3; i++) {
    const { tokens } = limits.reserve(tenant, () => ({ inputTokens: 100, outputTokens: 50 }));
    const row = requests.tryOpen(0, 1, 2_000)!;
    row.assign(tenant.row, tokens);
    if (i > 0) row.grant(endpoint, 0, clock.shared());
    if (i > 1) row.dispatch(clock.shared(), false);
  }
  assertEquals([used(), endpoints.requests(endpoint)], [[3, 300, 150], 2]);
  const lost = new LostRequests({
    kernel: control,
    clock,
    log: new Log("error", "test"),
    layout: LAYOUT,
    nameOf: () => "engine:1",
  });
  assertEquals(lost.reap(worker.worker), 3);
  assertEquals(used(), [1, 100, 0], "what an engine has computed counts, the rest is given back");
  assertEquals([endpoints.requests(endpoint), endpoints.promptBytes(endpoint)], [0, 0]);
  const cells = sumCells(control);
  assertEquals(readSeries(control, LAYOUT).map(({ model, outcome, requests }) => [model, outcome, requests]), [
    [1, "worker_lost", 3],
  ]);
  const { sent, refused } = readTenant(cells, LAYOUT, 2);
  assertEquals([sent, refused], [1, 2], "sent, not sent");
  assertEquals(lost.reap(worker.worker), 0);
  assertEquals(used(), [1, 100, 0], "once");
});
