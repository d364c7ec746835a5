// SPDX-License-Identifier: Apache-2.0
// Rows that change hands: after a reset their bytes are those of a fresh memory.

import { assert, assertEquals } from "@std/assert";
import { parseConfig } from "../../src/config/load.ts";
import { EndpointState, EndpointTable } from "../../src/tables/endpoint_table.ts";
import { PredictorTable } from "../../src/tables/predictor_table.ts";
import { writeQueueParameters } from "../../src/tables/queue_parameters.ts";
import { RequestTable } from "../../src/tables/request_table.ts";
import { writeRemoteUse, writeTenant } from "../../src/tables/tenant_table.ts";
import { ask, freshKernels } from "../support/kernel.ts";

/** Two requests of cluster 1, model 1 and tenant 2: one on an endpoint, one that waits. */
function used() {
  const kernels = freshKernels();
  const [control, worker] = kernels;
  const k = control.exports;
  writeQueueParameters(control, parseConfig({}).queue, 4);
  writeTenant(control, 2, { weight: 3 });
  writeRemoteUse(control, 2, 1, { used: 5, presumed: 7 });
  const table = new EndpointTable(control);
  const endpoint = table.add(1, { hostname: "e", port: 1 }, 100, 0);
  const requests = new RequestTable(worker);
  const open = [80_000, 40_000].map((bytes, i) => {
    const row = requests.tryOpen(1, 1, bytes)!;
    assert(row.admit(2, 10));
    worker.exports.lookUpNothing();
    const asked = { tenant: 2, now: 1e12 + i, band: 900 + 100 * i };
    const answer = ask(worker, asked).arrive(row.row, row.generation);
    assertEquals(answer, i === 0 ? endpoint : k.QUEUED);
    if (i === 0) row.dispatch(1e12, false);
    return row;
  });
  for (const window of [0, 1, 2]) k.limitReserve(2, window, 9, 100, 1e12);
  worker.exports.serve(2, 500);
  const bytes = (offset: number, length: number) => [...new Uint8Array(control.buffer, offset, length)];
  return { k, table, endpoint, open, bytes, control };
}

Deno.test("clusterReset brings a cluster's row to the state of a fresh memory, once nothing uses it", () => {
  const { k, table, endpoint, open: [granted, waiting], bytes } = used();
  const row = () => bytes(k.clusterOffset(1), k.CLUSTER_BYTES);
  const neighbours = () => [bytes(k.clusterOffset(0), k.CLUSTER_BYTES), bytes(k.clusterOffset(2), k.CLUSTER_BYTES)];
  const [before, beside] = [row(), neighbours()];
  const refused = () => {
    assertEquals(k.clusterReset(1), 0);
  };
  refused();
  assertEquals(row(), before, "a row in use is left alone");
  waiting.release();
  refused();
  table.setState(endpoint, EndpointState.draining);
  granted.release();
  refused();
  assert(table.remove(1, endpoint));
  refused();
  assert(table.removeCluster(1));
  assert(row().some((byte) => byte !== 0));
  assertEquals(k.clusterReset(1), 1);
  assertEquals(row(), Array(k.CLUSTER_BYTES).fill(0));
  assertEquals(neighbours(), beside);
});

Deno.test("tenantReset clears windows, totals, shares and what is remote, once no request of it is open", () => {
  const { k, open: [granted, waiting], bytes, control } = used();
  const row = (tenant: number) => bytes(k.tenantOffset(tenant), k.TENANT_BYTES);
  writeTenant(control, 1, { weight: 1 });
  writeTenant(control, 3, { weight: 1 });
  const [before, beside] = [row(2), [row(1), row(3)]];
  assertEquals(k.tenantReset(2), 0);
  assertEquals(row(2), before);
  waiting.release();
  assertEquals(k.tenantReset(2), 0);
  granted.release();
  assertEquals(k.tenantReset(2), 1);
  assertEquals(row(2), Array(k.TENANT_BYTES).fill(0));
  assertEquals([row(1), row(3)], beside);
  assertEquals(k.limitUsed(2, 0, 1e12), 0);
});

Deno.test("modelReset clears both predictors and the averages, once no request of it is open", () => {
  const { k, open, bytes, control } = used();
  const table = new PredictorTable(control);
  const rows = (model: number) =>
    [model, table.stepRow(model)].flatMap((row) => bytes(k.predictorOffset(row) + 4, k.PREDICTOR_BYTES - 4));
  const weights = { forgetting: 1, pace: 0.1 };
  for (const model of [0, 1, 2]) {
    table.reset(model);
    table.reset(table.stepRow(model));
    table.learn(model, { inputTokens: 1_000, cachedTokens: 10, ms: 50 }, weights);
    table.learnStep(model, { batch: 4, contextTokens: 1_000, ms: 20 }, weights);
    table.learnAverage(model, 2_000, 70);
    table.setBytesPerToken(model, 3);
    table.setRate(model, 0.1);
  }
  const beside = [rows(0), rows(2)];
  assertEquals(k.modelReset(1), 0);
  for (const row of open) row.release();
  assertEquals(k.modelReset(1), 1);
  assertEquals(rows(1), Array(2 * (k.PREDICTOR_BYTES - 4)).fill(0));
  assertEquals([rows(0), rows(2)], beside);
  assertEquals(table.predict(1, 1_000, 0), 0);
  new Uint32Array(control.buffer)[k.HEADER_AVERAGES] = 1;
  assertEquals([0, 1, 2].map((model) => Math.round(k.predictTtft(model, 2_000, 0))), [70, 500, 70]);
});
