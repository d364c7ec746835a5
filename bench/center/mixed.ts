// SPDX-License-Identifier: Apache-2.0
// Fleets of four gateways, of ours, of such that behave as Go's do, and of two and two, on either kind of metadata center:
// how unevenly 8 engines are loaded when every gateway sends several requests before it hears of the others'.
// Usage: main.ts [runs]

import { helpOf } from "../../test/support/task_help.ts";
import { LONG_LEASE, startCenterProcess, startPlainCenter } from "../../test/support/center.ts";
import { spreadOf, unevenness } from "../../test/support/mixed_fleet.ts";
import { Random } from "../../test/support/seed.ts";

helpOf(`Usage: deno task bench:mixed [RUNS (5)]

How evenly fleets of gateways, of Go's too, load their engines.`);

const runs = Number(Deno.args[0] ?? 5);
const CENTERS = { "our center": () => startCenterProcess(LONG_LEASE), "documented calls alone": startPlainCenter };

console.log("largest part of an engine over the mean, 8 engines, 4 gateways, mean of the runs");
for (const [kind, start] of Object.entries(CENTERS)) {
  for (const burst of [1, 2, 4]) {
    const means: number[] = [];
    for (const [ours, go] of [[4, 0], [2, 2], [0, 4]]) {
      let sum = 0;
      for (let run = 0; run < runs; run++) {
        await using center = await start();
        const random = new Random(run + 1);
        sum += unevenness(
          await spreadOf({ centerPort: center.port, ours, go, engines: 8, burst, rounds: 16 / burst, random }),
        );
      }
      means.push(sum / runs);
    }
    const [all, mixed, others] = means;
    console.log(
      `${kind}, ${burst} at once: four of ours ${all.toFixed(2)}, two and two ${mixed.toFixed(2)} (${
        (mixed / all).toFixed(2)
      } of it), four like Go's ${others.toFixed(2)}`,
    );
  }
}
Deno.exit(0);
