// SPDX-License-Identifier: Apache-2.0
// `deno task bench:queue`: one queue, granted by several threads at once, as workers do. Each thread lets requests arrive and
// end, and grants the room that their ends leave. Prints the processor time of an arrival and of a grant, and how often
// the queue's lock was not free at once.
// Options: --threads N (4), --endpoints N (10000), --waiting N (1000), --seconds N (5).

import { parseArgs } from "@std/cli/parse-args";
import { parseConfig } from "../../src/config/load.ts";
import { EndpointTable } from "../../src/tables/endpoint_table.ts";
import { writeQueueParameters } from "../../src/tables/queue_parameters.ts";
import { writeTenant } from "../../src/tables/tenant_table.ts";
import { sharedKernel } from "../../test/support/kernel.ts";
import { helpOf } from "../../test/support/task_help.ts";
import type { ThreadResult, ThreadTask } from "./thread.ts";

helpOf(`Usage: deno task bench:queue [options]

One queue, granted by several threads at once.

  --threads N         (4)
  --endpoints N       (10000)
  --waiting N         Requests that wait all the time (1000)
  --seconds N         (5)`);

const options = parseArgs(Deno.args, {
  string: ["threads", "endpoints", "waiting", "seconds"],
  default: { threads: "4", endpoints: "10000", waiting: "1000", seconds: "5" },
});
const [threads, endpoints, waiting, seconds] = [options.threads, options.endpoints, options.waiting, options.seconds]
  .map(Number);

const { shared, kernel } = sharedKernel({
  endpoints: endpoints + 16,
  workers: threads + 1,
  requestsPerWorker: Math.ceil((endpoints + waiting) / threads) + 1_024,
});
writeQueueParameters(kernel, parseConfig({}).queue, 4);
writeTenant(kernel, 0, { weight: 1 });
const table = new EndpointTable(kernel);
for (let i = 0; i < endpoints; i++) table.add(0, { hostname: "e", port: 1 + i }, 1_000, 0);

const k = kernel.exports;
const words = new Int32Array(kernel.buffer);
const contended = () => words[(k.clusterOffset(0) + k.CLUSTER_CONTENDED) >>> 2];

const flags = new Int32Array(new SharedArrayBuffer(8));
const ready = Array.from({ length: threads }, (_, i) => {
  const worker = new Worker(new URL("./thread.ts", import.meta.url), { type: "module" });
  const share = (all: number) => Math.floor((all + i) / threads);
  const task: ThreadTask = {
    shared,
    flags,
    area: i + 1,
    busy: share(endpoints),
    waiting: share(waiting),
    seconds,
  };
  const filled = Promise.withResolvers<void>();
  const done = Promise.withResolvers<ThreadResult>();
  worker.onmessage = ({ data }: MessageEvent<"up" | "filled" | ThreadResult>) => {
    // Before it is up, nobody takes what it is sent.
    if (data === "up") worker.postMessage(task);
    else if (data === "filled") filled.resolve();
    else {
      worker.terminate();
      done.resolve(data);
    }
  };
  return { filled: filled.promise, done: done.promise };
});
await Promise.all(ready.map(({ filled }) => filled));
const before = contended();
Atomics.store(flags, 0, 1);
Atomics.notify(flags, 0);
const results = await Promise.all(ready.map(({ done }) => done));

const sum = (key: keyof ThreadResult) => results.reduce((total, result) => total + result[key], 0);
const locks = sum("arrivals") + sum("grants");
console.log(
  `${threads} threads, ${endpoints} endpoints, ${waiting} waiting: ` +
    `an arrival ${(1_000 * sum("arrivalMs") / sum("arrivals")).toFixed(1)} µs, ` +
    `a grant ${(1_000 * sum("grantMs") / sum("grants")).toFixed(1)} µs, ` +
    `the lock not free at once in ${(100 * (contended() - before) / locks).toFixed(1)} % of ${locks} cases`,
);
