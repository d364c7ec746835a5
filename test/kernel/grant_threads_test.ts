// SPDX-License-Identifier: Apache-2.0

import { assert, assertEquals } from "@std/assert";
import { parseConfig } from "../../src/config/load.ts";
import { lockWaitsIn, waitingIn } from "../../src/tables/cluster_queue.ts";
import { EndpointTable } from "../../src/tables/endpoint_table.ts";
import { writeQueueParameters } from "../../src/tables/queue_parameters.ts";
import { writeTenant } from "../../src/tables/tenant_table.ts";
import { sharedKernel } from "../support/kernel.ts";
import { seed } from "../support/seed.ts";
import type { GrantTask } from "./grant_worker.ts";

const [THREADS, ENDPOINTS, ROUNDS] = [3, 6, 4_000];

Deno.test("queue: threads that decide and grant at once count nothing twice, leave nothing behind, and leave the lock open", async () => {
  const { shared, kernel } = sharedKernel({ workers: THREADS + 1 });
  writeQueueParameters(kernel, parseConfig({}).queue, 4);
  writeTenant(kernel, 0, { weight: 1 });
  const table = new EndpointTable(kernel);
  const rows = Array.from({ length: ENDPOINTS }, (_, i) => table.add(0, { hostname: "e", port: 1 + i }, 1_000, 0));
  const granted = await Promise.all(
    Array.from({ length: THREADS }, (_, i) =>
      new Promise<number>((resolve) => {
        const worker = new Worker(new URL("./grant_worker.ts", import.meta.url), { type: "module" });
        worker.onmessage = ({ data }: MessageEvent<"up" | number>) => {
          // Before it is up, nobody takes what it is sent.
          if (data === "up") {
            return worker.postMessage({ shared, area: i + 1, seed: seed + i, rounds: ROUNDS } satisfies GrantTask);
          }
          worker.terminate();
          resolve(data);
        };
      })),
  );
  const k = kernel.exports;
  assertEquals(rows.map((row) => [table.requests(row), table.uncachedBytes(row), table.promptBytes(row)]), [
    ...rows.map(() => [0, 0, 0]),
  ]);
  assertEquals(waitingIn(kernel, 0), 0);
  assertEquals(new Int32Array(kernel.buffer)[(k.clusterOffset(0) + k.CLUSTER_LOCK) >>> 2], 0);
  console.log(`AIGW_TEST_SEED=${seed}: ${granted} granted, the lock was taken ${lockWaitsIn(kernel, 0)} times`);
  assert(granted.some((count) => count > 0));
});
