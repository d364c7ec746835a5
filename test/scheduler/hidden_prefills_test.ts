// SPDX-License-Identifier: Apache-2.0

import { assertEquals } from "@std/assert";
import { HiddenPrefills } from "../../src/scheduler/hidden_prefills.ts";
import { EndpointTable } from "../../src/tables/endpoint_table.ts";
import { RequestPhase, RequestTable } from "../../src/tables/request_table.ts";
import { freshKernels } from "../support/kernel.ts";

function sent(count: number, hidden = (_: number) => true) {
  const [control, worker] = freshKernels();
  const endpoints = new EndpointTable(control);
  const endpoint = endpoints.add(0, { hostname: "e", port: 1 }, 10, 0);
  endpoints.setRate(endpoint, 1); // a ms a byte
  const table = new RequestTable(worker);
  const requests = Array.from({ length: count }, (_, i) => {
    const request = table.tryOpen(0, 0, 1_000)!;
    request.grant(endpoint, 0, 1_000 + i);
    request.dispatch(1_000 + i, hidden(i));
    return request;
  });
  const prefilling = () => requests.map(({ phase }) => phase === RequestPhase.prefilling);
  return { prefills: new HiddenPrefills(control), endpoint, prefilling, endpoints };
}

Deno.test("HiddenPrefills: of those before the ones that wait, all but the last have had their first token", () => {
  const { prefills, endpoint, prefilling, endpoints } = sent(4);
  assertEquals([prefills.any(endpoint, 1_010), prefills.observe(endpoint, 3, 1_010)], [true, 0]);
  assertEquals(prefills.observe(endpoint, 4, 1_020), 0);
  assertEquals(prefills.observe(endpoint, 1, 1_030), 2);
  assertEquals([prefilling(), endpoints.uncachedBytes(endpoint)], [[false, false, true, true], 2_000]);
  assertEquals(prefills.observe(endpoint, 0, 1_040), 1, "nobody waits: the last one is at it");
  assertEquals(prefilling(), [false, false, false, true]);
  // Its prefill began when that of the one before was over, at 1,040.
  assertEquals(prefills.observe(endpoint, 0, 1_900), 0);
  assertEquals(prefills.observe(endpoint, 0, 1_960), 1, "most of its time has passed");
  assertEquals([prefilling(), prefills.any(endpoint, 1_970)], [[false, false, false, false], false]);
});

Deno.test("HiddenPrefills: what is seen is not presumed, and what was sent later is not told of", () => {
  const { prefills, endpoint, prefilling } = sent(4, (i) => i !== 0);
  assertEquals(prefills.observe(endpoint, 0, 1_003), 1, "of the three that were sent before, the first is seen");
  assertEquals(prefilling(), [true, true, true, true].map((_, i) => i !== 1));
  assertEquals(prefills.observe(endpoint, NaN, 1_010), 0, "it does not say");
});
