// SPDX-License-Identifier: Apache-2.0
// What the queue, prediction and admission cost: an arrival and a grant with 1,000 waiting and 1,000 endpoints, a decision
// with prediction beside one without, recursive least squares beside their twin, a request's admission with limits.

import { assertEquals } from "@std/assert";
import { Limits } from "../src/admission/limits.ts";
import { Tenants } from "../src/admission/tenants.ts";
import { parseConfig } from "../src/config/load.ts";
import { DecisionMaker } from "../src/scheduler/decision.ts";
import { EndpointTable } from "../src/tables/endpoint_table.ts";
import { PredictorTable } from "../src/tables/predictor_table.ts";
import { questionFields } from "../src/tables/question.ts";
import { writeQueueParameters } from "../src/tables/queue_parameters.ts";
import { RequestPhase, type RequestRow, RequestTable } from "../src/tables/request_table.ts";
import { writeOwnShare, writeTenant } from "../src/tables/tenant_table.ts";
import { TwinRls } from "../test/kernel/twin_rls.ts";
import { tenantRowsOf } from "../test/support/snapshot.ts";
import { ask, freshKernel } from "../test/support/kernel.ts";
import { loadedFleet, PLACEMENT } from "./fixtures.ts";

const WAITING = 1_000;
const ENDPOINTS = 1_000;
const MANY = 10_000;

/** A cluster whose endpoints are all full, and requests that wait. */
function crowd(endpoints = ENDPOINTS) {
  const kernel = freshKernel({
    endpoints: endpoints + 16,
    requestsPerWorker: endpoints + WAITING + 1_024,
    workers: 1,
  });
  writeQueueParameters(kernel, parseConfig({}).queue, 4);
  writeTenant(kernel, 0, { weight: 1 });
  const table = new EndpointTable(kernel);
  const rows = Array.from({ length: endpoints }, (_, i) => table.add(0, { hostname: "e", port: 1 + i }, 1_000, 0));
  const requests = new RequestTable(kernel);
  const k = kernel.exports;
  let now = 1e12;
  const fields = questionFields(kernel);
  const doubles = new Float64Array(kernel.buffer);
  ask(kernel, {});
  const arrive = (bytes: number): RequestRow => {
    const row = requests.tryOpen(0, 0, bytes)!;
    k.lookUpNothing();
    doubles[fields.nowMs] = now;
    k.arrive(row.row, row.generation);
    return row;
  };
  const busy = rows.map(() => {
    const row = arrive(40_000);
    row.dispatch(now, false);
    return row;
  });
  const waiting = new Set(Array.from({ length: WAITING }, (_, i) => arrive(20_000 + 7 * i)));
  return { k, arrive, busy, waiting, tick: () => now += 1 };
}

for (const endpoints of [ENDPOINTS, MANY]) {
  const arriving = crowd(endpoints);
  Deno.bench(`arrival, ${WAITING} waiting, ${endpoints} endpoints`, { group: `queue ${endpoints}` }, (bench) => {
    arriving.tick();
    bench.start();
    const row = arriving.arrive(20_000);
    bench.end();
    row.release();
  });

  // An endpoint has its first token; the one that is granted its room fills it, and another one comes and waits.
  const granting = crowd(endpoints);
  let turn = 0;
  Deno.bench(`grant, ${WAITING} waiting, ${endpoints} endpoints`, { group: `queue ${endpoints}` }, (bench) => {
    const now = granting.tick();
    const slot = turn++ % endpoints;
    const { endpoint } = granting.busy[slot];
    granting.busy[slot].firstToken(now);
    granting.busy[slot].release();
    bench.start();
    const granted = granting.k.fill(0, endpoint, now);
    bench.end();
    assertEquals(granted, 1);
    for (const row of granting.waiting) {
      if (row.phase !== RequestPhase.granted) continue;
      row.dispatch(now, false);
      granting.busy[slot] = row;
      granting.waiting.delete(row);
      break;
    }
    granting.waiting.add(granting.arrive(20_000 + turn % 7_000));
  });
}

for (const policy of ["inference_lb", "expected_ttft", "slo", "late_binding"]) {
  const { kernel } = loadedFleet(ENDPOINTS);
  writeQueueParameters(kernel, parseConfig({}).queue, 4);
  const decisions = new DecisionMaker(kernel);
  const numbers = ["inference_lb", "random", "round_robin", "least_request", "expected_ttft", "slo", "late_binding"];
  const placement = { ...PLACEMENT, policy: { ...PLACEMENT.policy, kernelPolicy: numbers.indexOf(policy) } };
  const text = "word ".repeat(1_600);
  decisions.begin(text, placement);
  Deno.bench(`decision of ${policy}, ${ENDPOINTS} endpoints, 8 KiB`, {
    group: "prediction",
    baseline: policy === "inference_lb",
  }, () => {
    decisions.begin(text, placement);
    decisions.choose(placement, 8_000, 0, 1e12);
  });
}

const predictors = new PredictorTable(freshKernel());
predictors.reset(0);
const twin = new TwinRls(6, 1e6);
const features = (input: number, cached: number) => [input * input, cached * cached, input * cached, input, cached, 1];
const weights = { forgetting: 0.97, pace: 0.05 };
let sample = 0;
Deno.bench("RLS update", { group: "rls update", baseline: true }, () => {
  const inputTokens = 100 + sample++ % 8_000;
  predictors.learn(0, { inputTokens, cachedTokens: sample % 100, ms: 50 + sample % 1_000 }, weights);
});
Deno.bench("RLS update, twin", { group: "rls update" }, () => {
  twin.learn(features((100 + sample++ % 8_000) / 1_000, (sample % 100) / 1_000), 50 + sample % 1_000, 0.97);
});
Deno.bench("RLS predict", { group: "rls predict", baseline: true }, () => {
  predictors.predict(0, 100 + sample++ % 8_000, sample % 100);
});
Deno.bench("RLS predict, twin", { group: "rls predict" }, () => {
  twin.predict(features((100 + sample++ % 8_000) / 1_000, (sample % 100) / 1_000));
});

const key = "sk-0123456789abcdef0123456789abcdef";
const digest = [...new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(key)))];
const hex = digest.map((byte) => byte.toString(16).padStart(2, "0")).join("");
const limits = { requests_per_minute: 2e8, input_tokens_per_minute: 2e8, output_tokens_per_minute: 2e8 };
const limitedConfig = parseConfig({ tenants: [{ name: "gold", keys_sha256: [hex], limits }] });
const tenants = new Tenants(limitedConfig, tenantRowsOf(limitedConfig));
const limited = freshKernel({ tenants: 64 });
writeOwnShare(limited, 1);
const admission = new Limits(limited, () => Date.now());
const credentials = { authorization: `Bearer ${key}`, apiKey: undefined, tenant: undefined, priority: undefined };
Deno.bench("admission: key, priority, three limits reserved and settled, headers", { group: "admission" }, () => {
  const tenant = tenants.identify(credentials);
  tenants.priorityOf(tenant, undefined);
  const reservation = admission.reserve(tenant, () => ({ inputTokens: 10, outputTokens: 10 }));
  admission.addHeaders(tenant, new Headers());
  reservation.settle(9, 5);
});
