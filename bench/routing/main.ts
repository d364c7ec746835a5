// SPDX-License-Identifier: Apache-2.0
// `deno task bench:routing`: replays traces against simulated engines on a virtual clock, policy by policy. A load is a share of the saturating rate: the highest at which the best published rule's mean TTFT stays under 10 s.

import { parseArgs } from "@std/cli/parse-args";
import { parseConfig } from "../../src/config/load.ts";
import type { PolicyName } from "../../src/config/sections.ts";
import { Random } from "../../src/base/random.ts";
import type { EventDelay } from "./exact_caches.ts";
import { GatewayPolicy } from "./gateway_policy.ts";
import { PUBLISHED } from "./published.ts";
import { SCENARIOS } from "./disturbances.ts";
import { HARDWARE, parseFleet } from "./hardware.ts";
import { boundTtft } from "./bound.ts";
import { measure, merge, plot, type Point, table, versus } from "./report.ts";
import { type Disturbance, type Fleet, type RoutingPolicy, Simulator, UNDISTURBED } from "./simulator.ts";
import { idealHitRatio, makeTrace, readTrace, shaken, type Trace, WORKLOADS } from "./trace.ts";

const USAGE = `Usage: deno task bench:routing [options]

  --trace FILE        A trace: .jsonl in Mooncake's format, .csv in Azure's
  --workload NAMES    Seeded workloads instead, all without either: ${Object.keys(WORKLOADS).join(" ")}
  --engines FLEET     Simulated engines: a number (8), or some of each: ${Object.keys(HARDWARE).join(":4,")}:4
  --load L[,L…]       Shares of the saturating rate (0.5,0.7,0.85,1,1.2)
  --policies NAMES    Names with commas, or all
  --disturb NAMES     What goes wrong (none): ${Object.keys(SCENARIOS).join(" ")}
  --queue JSON        Settings of the gateway's own queue, for example {"room_tokens":2048}
  --scale S           The saturating rate as a multiple of the trace's own, where it is known already
  --seeds N           Runs from so many seeds, and their mean (1); a trace's requests come a little sooner or later in each
  --requests N of a workload (1000 an engine), --json OUT, --svg OUT`;

/** Wrong usage or a wrong input file: told without a stack. */
function stop(message: string): never {
  console.error(message);
  Deno.exit(2);
}

const options = parseArgs(Deno.args, {
  string: [
    "trace",
    "workload",
    "engines",
    "load",
    "policies",
    "disturb",
    "scale",
    "seeds",
    "requests",
    "queue",
    "json",
    "svg",
  ],
  boolean: ["help"],
  default: { engines: "8", load: "0.5,0.7,0.85,1,1.2", policies: "all", disturb: "none", seeds: "1", requests: "" },
  unknown: (option: string) => stop(`Unknown option ${option}\n\n${USAGE}`),
});
if (options.help) {
  console.log(USAGE);
  Deno.exit(0);
}

function wholeNumber(name: "seeds" | "requests", standard?: number): number {
  if (options[name] === "" && standard !== undefined) return standard;
  const value = Number(options[name]);
  if (Number.isSafeInteger(value) && value >= 1) return value;
  stop(`--${name}: expected a whole number, 1 or more, found "${options[name]}"`);
}

const hardware = parseFleet(options.engines) ??
  stop(`--engines: expected a number or counts like small:4,large:2, found "${options.engines}"`);
const engines = hardware.length;
const fleet = options.engines.replaceAll(",", " ");
const seeds = Array.from({ length: wholeNumber("seeds") }, (_, i) => 1 + i);

type Make = (fleet: Fleet, disturbance: Disturbance, seed: number) => RoutingPolicy;

const queue = readQueue(options.queue);

function readQueue(text: string | undefined): Record<string, unknown> | undefined {
  if (text === undefined) return undefined;
  try {
    const queue = JSON.parse(text);
    parseConfig({ queue });
    return queue;
  } catch (error) {
    stop(`--queue: ${(error as Error).message}`);
  }
}

function own(algorithm: PolicyName, exact?: EventDelay): Make {
  return (fleet, disturbance, seed) => new GatewayPolicy(fleet, { algorithm, seed, disturbance, queue, exact });
}

/** The rules that others publish; the best of them is the yardstick. */
const published: Record<string, Make> = {
  ...Object.fromEntries(
    Object.entries(PUBLISHED).map((
      [name, Rule],
    ): [string, Make] => [name, (fleet, _, seed) => new Rule(fleet, new Random(seed))]),
  ),
  inference_lb: own("inference_lb"),
};
const policies: Record<string, Make> = {
  ...published,
  expected_ttft: own("expected_ttft"),
  slo: own("slo"),
  late_binding: own("late_binding"),
  late_binding_exact: own("late_binding", { lagMs: 3, loss: 0 }),
  late_binding_exact_late: own("late_binding", { lagMs: 50, loss: 0.01 }),
};

const chosen: string[] = options.policies === "all" ? Object.keys(policies) : options.policies.split(",");
for (const name of chosen) {
  if (!(name in policies)) {
    stop(`--policies: there is no "${name}"; there are: ${Object.keys(policies).join(" ")}`);
  }
}

/** Rules without a queue that can be the best at saturation: the others are never near it. */
const CONTENDERS = [
  "least_request",
  "sglang_cache_aware",
  "smg_cache_aware",
  "llmd_blend",
  "llmd_sticky",
  "dynamo_cost",
  "aibrix_prefix",
  "inference_lb",
];
const SATURATED_MS = 10_000;

async function simulate(trace: Trace, scale: number, make: Make, disturbance = UNDISTURBED, seed = 1) {
  const simulator = new Simulator(hardware, disturbance);
  return { simulator, jobs: await simulator.run(trace.requests, scale, (fleet) => make(fleet, disturbance, seed)) };
}

// Asked first: the rule that was not saturated last. Only those that are chosen, where any is.
const contenders = CONTENDERS.filter((name) => chosen.includes(name));
let order = contenders.length > 0 ? contenders : CONTENDERS;

async function saturated(trace: Trace, scale: number): Promise<boolean> {
  for (const name of order) {
    const { jobs } = await simulate(trace, scale, published[name]);
    if (jobs.reduce((sum, { firstTokenAt, at }) => sum + firstTokenAt - at, 0) / jobs.length < SATURATED_MS) {
      order = [name, ...order.filter((other) => other !== name)];
      return false;
    }
  }
  return true;
}

/** The saturating rate of a trace, as a multiple of its own, to 1 %. */
async function saturatingScale(trace: Trace): Promise<number> {
  let low = engines / 64;
  while (await saturated(trace, low)) low /= 2;
  let high = low * 2;
  // Beyond this everything arrives within a millisecond.
  const max = Math.max(1, trace.requests.at(-1)!.at);
  while (!await saturated(trace, high)) {
    [low, high] = [high, high * 2];
    if (high > max) {
      stop(`${trace.name}: too short to saturate ${engines} engines; use more requests or fewer engines`);
    }
  }
  while (high / low > 1.01) {
    const middle = Math.sqrt(low * high);
    if (await saturated(trace, middle)) high = middle;
    else low = middle;
  }
  return low;
}

/** The same trace from each seed. */
interface Seeded {
  readonly name: string;
  from(seed: number): Trace;
}

function named(name: string): Seeded {
  if (!(name in WORKLOADS)) stop(`--workload: there is no "${name}"; there are: ${Object.keys(WORKLOADS).join(" ")}`);
  const requests = wholeNumber("requests", 1_000 * engines);
  return { name, from: (seed) => makeTrace(name, seed, requests) };
}

const progress = Deno.stderr.isTerminal()
  ? (text: string) => Deno.stderr.writeSync(new TextEncoder().encode(`\r\x1b[K${text}`))
  : () => {};

async function recorded(path: string): Promise<Seeded> {
  const trace = await readTrace(path).catch((error: Error) => stop(error.message));
  return { name: trace.name, from: (seed) => seed === 1 ? trace : shaken(trace, seed) };
}

const traces: Seeded[] = options.trace !== undefined
  ? [await recorded(options.trace)]
  : (options.workload ? options.workload.split(",") : Object.keys(WORKLOADS)).map((name: string) => named(name));
const loads: number[] = options.load.split(",").map(Number);
if (!loads.every((load: number) => load > 0 && load <= 10)) {
  stop(`--load: expected shares like 0.85, found "${options.load}"`);
}

const scenarios: string[] = options.disturb.split(",");
for (const name of scenarios) {
  if (!(name in SCENARIOS)) {
    stop(`--disturb: there is no "${name}"; there are: ${Object.keys(SCENARIOS).join(" ")}`);
  }
}

const points: Point[] = [];
/** Of each trace and load. */
const bounds = new Map<string, readonly number[]>();
const keyOf = ({ trace, disturbance, load }: Pick<Point, "trace" | "disturbance" | "load">) =>
  `${trace} ${disturbance} ${load}`;
const mean = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;
const total = traces.length * scenarios.length * loads.length * chosen.length;
for (const seeded of traces) {
  progress(`${seeded.name}: looking for the saturating rate`);
  const first = seeded.from(1);
  const scale = options.scale === undefined ? await saturatingScale(first) : Number(options.scale);
  if (!(scale > 0)) stop(`--scale: expected a number above 0, found "${options.scale}"`);
  if (!Deno.stderr.isTerminal()) console.error(`${first.name}: saturates at ${scale.toFixed(3)} times its own rate`);
  for (const disturbance of scenarios) {
    const { fleet: conditions, trace: disturb } = SCENARIOS[disturbance];
    const disturbed = seeds.map((seed) => disturb ? disturb(seeded.from(seed)) : seeded.from(seed));
    const ideal = idealHitRatio(disturbed[0].requests);
    for (const load of loads) {
      const at = disturbed[0].requests.map((request) => ({ ...request, at: request.at / (scale * load) }));
      bounds.set(
        keyOf({ trace: first.name, disturbance, load }),
        [1, Infinity].map((share) => mean(boundTtft(hardware, at, share))),
      );
      for (const policy of chosen) {
        const bar = "#".repeat(Math.round(30 * points.length / total)).padEnd(30, ".");
        progress(`${bar} ${first.name} ${disturbance} ${load} ${policy}`);
        const about = { trace: first.name, disturbance, engines, fleet, load, policy, ideal_hit_ratio: ideal };
        const runs: Point[] = [];
        for (const [i, seed] of seeds.entries()) {
          const { jobs, simulator } = await simulate(disturbed[i], scale * load, policies[policy], conditions, seed);
          runs.push(measure(jobs, simulator, about));
        }
        points.push(merge(runs));
      }
    }
  }
}
progress("");
console.log(table(points));
console.log(`\n${versus(points, "late_binding", Object.keys(published), (point) => bounds.get(keyOf(point))!)}`);
if (options.json) await Deno.writeTextFile(options.json, `${JSON.stringify({ points }, null, 2)}\n`);
if (options.svg) {
  await Deno.writeTextFile(
    options.svg,
    plot(points, `${traces.map(({ name }) => name).join(", ")}, ${engines} engines`),
  );
}
