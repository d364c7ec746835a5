// SPDX-License-Identifier: Apache-2.0
import { assertEquals } from "@std/assert";
import { ReplicaJudge } from "../../src/gateway/replica_judge.ts";
import type { EndpointRef } from "../../src/tables/endpoint_directory.ts";

const endpoint = (row: number, generation = 1) => ({ row, generation }) as EndpointRef;

Deno.test("ReplicaJudge: 401 and 404 ask a peer at once, others after several in a row of one engine", () => {
  const judge = new ReplicaJudge();
  const [a, b] = [endpoint(0), endpoint(1)];
  for (const status of [401, 404]) assertEquals(judge.suspects(b, status), true);
  for (const status of [200, 429, 500, 503, 413]) assertEquals(judge.suspects(b, status), false);
  const asked = [400, 422, 403, 400, 400, 400, 400].map((status) => judge.suspects(a, status));
  assertEquals(asked, [false, false, false, false, false, true, true]);
  assertEquals(judge.suspects(b, 400), false, "each for itself");
});

Deno.test("ReplicaJudge: an answer, an acquittal and another engine in the row begin anew", () => {
  const judge = new ReplicaJudge();
  const a = endpoint(0);
  const reject = (who: EndpointRef, times: number) =>
    Array.from({ length: times }, () => judge.suspects(who, 400)).at(-1);
  for (const anew of [() => judge.suspects(a, 200), () => judge.acquitted(a)]) {
    assertEquals(reject(a, 6), true);
    anew();
    assertEquals(reject(a, 5), false);
    judge.acquitted(a);
  }
  assertEquals(reject(a, 6), true);
  assertEquals(reject(endpoint(0, 2), 5), false);
});

Deno.test("ReplicaJudge: that a replica is at fault is news once, until it answers again", () => {
  const judge = new ReplicaJudge();
  const a = endpoint(0);
  const found = [404, 404, 200, 404].map((status) => judge.suspects(a, status) && judge.guilty(a));
  assertEquals(found, [true, false, false, true]);
});
