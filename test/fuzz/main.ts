// SPDX-License-Identifier: Apache-2.0
// `deno task fuzz`: the fuzz targets for as long as asked, and a live gateway under the same kind of bytes.
// Options: --cases N (1000000, shared among the targets), --live N (20000, of them against a gateway), --seed N (of the
// commit), --case N with --target NAME to repeat one.

import { helpOf } from "../support/task_help.ts";
import { parseArgs } from "@std/cli/parse-args";
import { startEngines, startTestGateway } from "../support/gateway.ts";
import { Random } from "../support/seed.ts";
import { TARGETS } from "./targets.ts";
import { fuzzGateway } from "./live.ts";

helpOf(`Usage: deno task fuzz [options]

  --cases N           Shared among the targets (1000000)
  --live N            Of them against a gateway (20000)
  --seed N            Of the commit when not given
  --case N, --target NAME
                      Repeat one`);

const options = parseArgs(Deno.args, {
  string: ["cases", "live", "seed", "case", "target"],
  default: { cases: "1000000", live: "20000" },
});

function commitSeed(): number {
  const { stdout, success } = new Deno.Command("git", { args: ["rev-parse", "HEAD"] }).outputSync();
  return success ? parseInt(new TextDecoder().decode(stdout).slice(0, 8), 16) : 1;
}

const seed = Number(options.seed ?? commitSeed());
if (options.case !== undefined) {
  await TARGETS[options.target as keyof typeof TARGETS](new Random(Number(options.case)));
  console.log("no failure");
  Deno.exit(0);
}

const live = Number(options.live);
const each = Math.ceil((Number(options.cases) - live) / Object.keys(TARGETS).length);
const started = performance.now();
const memory = () => `${Math.round(Deno.memoryUsage().rss / 1_048_576)} MiB`;
console.log(`seed ${seed}, ${each} cases of each of ${Object.keys(TARGETS).join(", ")}, ${live} against a gateway`);
for (const [name, target] of Object.entries(TARGETS)) {
  for (let i = 0; i < each; i++) {
    try {
      await target(new Random(seed + i));
    } catch (error) {
      console.error(`FAILED: --target ${name} --case ${seed + i}`, error);
      Deno.exit(1);
    }
  }
  console.log(`${name}: ${each} cases, ${Math.round((performance.now() - started) / 1_000)} s, ${memory()}`);
}
{
  await using engines = startEngines(2, { instant: true });
  await using gateway = await startTestGateway(engines, { probes: { enabled: false }, workers: 1 });
  const statuses = await fuzzGateway(gateway, live, seed);
  await gateway.settled();
  console.log(`gateway: ${live} cases, every counter 0, ${memory()}; ${JSON.stringify(statuses)}`);
}
console.log(`done in ${Math.round((performance.now() - started) / 1_000)} s: no failure`);
