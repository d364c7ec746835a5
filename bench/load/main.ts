// SPDX-License-Identifier: Apache-2.0
// `deno task bench:load`: the gateway, by both of its servers, beside bare proxies and other routers, in one run: in front of
// the same eight mock engines, with chats that share beginnings. The proxy under test has a core of its own where taskset
// is installed; engines and load share another. All run at once and are measured in turn, so that a machine whose speed
// drifts treats them alike; figures are medians over rounds, processor time is that of the proxy's process from /proc.
// Options: --seconds N (2), --rounds N (3), --json FILE, --peers FOLDER (with the programs envoy, sglang-router, smg,
// vllm-router, as `pip install --target` or a virtual environment makes it), --beside FOLDER (another checkout of this
// project), --only NAME;NAME (of the targets), --sizes BYTES,BYTES (200,2048,16384,204800), --no-streams.

import { helpOf } from "../../test/support/task_help.ts";
import { parseArgs } from "@std/cli/parse-args";
import { listening, processorMicros, root, RUN } from "../process.ts";
import { chats } from "./bodies.ts";
import { type TargetCommand, targetsOf } from "./targets.ts";

helpOf(`Usage: deno task bench:load [options]

The gateway beside bare proxies and other routers, in one run. Needs wrk; uses taskset and nginx where they are installed.

  --seconds N         Of each measurement (2)
  --rounds N          Medians of so many (3)
  --only NAME;NAME    Of the targets: aigw; aigw, direct; aigw, limits; aigw, access log; aigw, traces; fetch, piped; ...
  --sizes B,B         Bytes of a body (200,2048,16384,204800)
  --no-streams        Whole answers alone
  --peers FOLDER      With the programs envoy, sglang-router, smg, vllm-router
  --beside FOLDER     Another checkout of this project
  --json FILE         The figures`);

const options = parseArgs(Deno.args, {
  string: ["seconds", "rounds", "json", "peers", "beside", "only", "sizes"],
  boolean: ["streams"],
  negatable: ["streams"],
  default: { seconds: "2", rounds: "3", sizes: "200,2048,16384,204800", streams: true },
});
const SECONDS = Number(options.seconds);
const ROUNDS = Number(options.rounds);
const SIZES = options.sizes.split(",").map(Number);
/** Tokens of a stream, and ms between them. */
const [TOKENS, STEP_MS] = [100, 20];
const [ENGINES, ENGINE_PORT, PORT] = [8, 19_010, 19_100];
/** Warm-up of each target before anything is measured, in seconds. */
const WARM_S = 5;

const folder = await Deno.makeTempDir();
const installed = (name: string) => new Deno.Command("which", { args: [name], stdout: "null" }).outputSync().success;
const pinning = installed("taskset") && navigator.hardwareConcurrency > 1;
if (!installed("wrk")) {
  console.error("bench:load needs wrk (of Debian's package of that name)");
  Deno.exit(2);
}
const deno = Deno.execPath();

function spawn(core: number, command: string, args: string[], env?: Record<string, string>): Deno.ChildProcess {
  const [program, all] = pinning ? ["taskset", ["-c", String(core), command, ...args]] : [command, args];
  return new Deno.Command(program as string, {
    args: all as string[],
    env,
    stdout: "null",
    stderr: "inherit",
  }).spawn();
}

const engines = (stepMs?: number) =>
  spawn(0, deno, [
    ...RUN,
    `${root}bench/load/engines.ts`,
    String(ENGINE_PORT),
    String(ENGINES),
    ...(stepMs === undefined ? [] : [String(stepMs)]),
  ]);

await Deno.writeTextFile(
  `${folder}/post.lua`,
  `local turn = 0
local all = {}
function init(args)
  wrk.headers["Content-Type"] = "application/json"
  for line in io.lines(args[1]) do all[#all + 1] = wrk.format("POST", nil, nil, line) end
  math.randomseed(os.time())
  turn = math.random(#all)
end
function request() turn = turn % #all + 1; return all[turn] end
`,
);

/** A file with a body in each line. */
async function bodiesFile(bytes: number, stream: boolean): Promise<string> {
  const file = `${folder}/${stream ? "stream" : "whole"}-${bytes}.jsonl`;
  const count = Math.max(32, Math.min(512, Math.floor(32_000_000 / bytes)));
  await Deno.writeTextFile(file, chats(count, bytes, stream, stream ? TOKENS : 16).join("\n"));
  return file;
}

interface Load {
  readonly requests: number;
  readonly seconds: number;
  readonly p50: number;
  readonly p99: number;
  readonly failures: number;
}

async function load(port: number, connections: number, seconds: number, file: string): Promise<Load> {
  const url = `http://127.0.0.1:${port}/v1/chat/completions`;
  const args = [
    "-t1",
    `-c${connections}`,
    `-d${seconds}`,
    "--latency",
    "--timeout",
    "60",
    "-s",
    `${folder}/post.lua`,
    url,
  ];
  const [program, all] = pinning
    ? ["taskset", ["-c", "0", "wrk", ...args, "--", file]]
    : ["wrk", [...args, "--", file]];
  const { stdout } = await new Deno.Command(program, { args: all, stdout: "piped", stderr: "inherit" }).output();
  const text = new TextDecoder().decode(stdout);
  const ms = (label: string) => {
    const [, number, unit] = new RegExp(`${label}\\s+([\\d.]+)(us|ms|s)`).exec(text)!;
    return Number(number) * { us: 0.001, ms: 1, s: 1_000 }[unit as "us" | "ms" | "s"];
  };
  const [, requests, time] = /(\d+) requests in ([\d.]+)s/.exec(text)!;
  return {
    requests: Number(requests),
    seconds: Number(time),
    p50: ms("50%"),
    p99: ms("99%"),
    failures: Number(/Non-2xx or 3xx responses: (\d+)/.exec(text)?.[1] ?? 0),
  };
}

const median = (values: number[]) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];

interface Target extends TargetCommand {
  readonly name: string;
  readonly pid: number;
}

/** Processor µs a unit, p50 in ms, requests a second, failures. */
interface Figures {
  micros: number;
  p50: number;
  p99: number;
  perSecond: number;
  failures: number;
}

async function measure(targets: Target[], connections: number, file: string, units: number, seconds = SECONDS) {
  const rounds = new Map(targets.map(({ name }) => [name, [] as Figures[]]));
  for (let round = 0; round < ROUNDS; round++) {
    for (const { name, port, pid } of targets) {
      const before = await processorMicros(pid);
      const { requests, seconds: time, p50, p99, failures } = await load(port, connections, seconds, file);
      const micros = (await processorMicros(pid) - before) / (requests * units);
      rounds.get(name)!.push({ micros, p50, p99, perSecond: requests / time, failures });
    }
  }
  const of = (all: Figures[], key: keyof Figures) => median(all.map((one) => one[key]));
  return new Map([...rounds].map(([name, all]): [string, Figures] => [name, {
    micros: of(all, "micros"),
    p50: of(all, "p50"),
    p99: of(all, "p99"),
    perSecond: of(all, "perSecond"),
    failures: all.reduce((sum, { failures }) => sum + failures, 0),
  }]));
}

async function end(process: Deno.ChildProcess): Promise<void> {
  const send = (signal: Deno.Signal) => {
    try {
      process.kill(signal);
    } catch {
      // it has ended
    }
  };
  send("SIGTERM");
  const late = setTimeout(() => send("SIGKILL"), 5_000);
  await process.status;
  clearTimeout(late);
}

/** Other engines on the same ports; routers find them again. */
async function restartEngines(stepMs?: number): Promise<void> {
  console.error(`engines: ${stepMs === undefined ? "instant" : `a token every ${stepMs} ms`}`);
  await end(engine);
  engine = engines(stepMs);
  for (const port of enginePorts) await listening(port);
  const file = await bodiesFile(2_048, false);
  for (const { port } of targets) for (let i = 0; i < 20 && (await load(port, 8, 1, file)).failures > 0; i++);
}

const table: { row: string; unit: string; cells: Map<string, Figures> }[] = [];
const enginePorts = Array.from({ length: ENGINES }, (_, i) => ENGINE_PORT + i);
// Takes what is exported, and does nothing with it.
const collector = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, async (request) => {
  await request.body?.cancel();
  return new Response();
});
const all = await targetsOf({
  folder,
  port: PORT,
  enginePorts,
  deno,
  run: RUN,
  peers: options.peers,
  collector: collector.addr.port,
  beside: options.beside,
});
const only = options.only?.split(";");
let engine = engines();
const started = new Map<string, Deno.ChildProcess>();
const targets: Target[] = [];
try {
  for (const port of enginePorts) await listening(port);
  for (const [name, target] of all) {
    if (only && !only.includes(name)) continue;
    const owner = target.sameAs ?? name;
    let process = started.get(owner);
    if (process === undefined) started.set(owner, process = spawn(1, target.command, target.args, target.env));
    targets.push({ ...target, name, pid: process.pid });
  }
  for (const { name, port } of targets) {
    await listening(port);
    // Routers of others look for their engines first.
    const file = await bodiesFile(2_048, false);
    for (let i = 0;; i++) {
      const { requests, failures } = await load(port, 1, 1, file);
      if (requests >= 10 && failures === 0) break;
      if (i === 60) throw new Error(`${name}: ${failures} of ${requests} requests failed`);
    }
    // Until the compilers have settled: what is measured is the steady state.
    await load(port, 64, WARM_S, file);
    if (options.streams) await load(port, 64, WARM_S, await bodiesFile(2_048, true));
  }
  for (const bytes of SIZES) {
    const file = await bodiesFile(bytes, false);
    for (const connections of [1, 64]) {
      const cells = await measure(targets, connections, file, 1);
      table.push({ row: `${bytes} B, ${connections}`, unit: "request", cells });
      const shown = [...cells].map(([name, { micros, failures }]) =>
        `${name} ${micros.toFixed(0)}${failures > 0 ? ` (${failures} FAILED)` : ""}`
      );
      console.error(`${bytes} B, ${connections}: ${shown.join(", ")}`);
    }
  }
  if (options.streams) {
    await restartEngines(STEP_MS);
    const file = await bodiesFile(2_048, true);
    const cells = await measure(targets, 64, file, TOKENS, Math.max(6, SECONDS));
    console.error(`stream: ${[...cells].map(([name, { micros }]) => `${name} ${micros.toFixed(1)}`).join(", ")}`);
    table.push({ row: `stream, a token every ${STEP_MS} ms, 64`, unit: "chunk", cells });
  }
} finally {
  for (const process of [...started.values(), engine]) await end(process);
  await collector.shutdown();
  await Deno.remove(folder, { recursive: true });
}

if (options.json) {
  const rows = table.map(({ row, unit, cells }) => ({ row, unit, ...Object.fromEntries(cells) }));
  await Deno.writeTextFile(options.json, JSON.stringify({ seconds: SECONDS, rounds: ROUNDS, rows }, null, 2));
}
const names = targets.map(({ name }) => name);
console.log(
  `\nProcessor µs of the proxy for a request (a chunk of a stream), and p50 in ms; wrk, ${
    pinning ? "each proxy on one core" : "not pinned"
  }, ${ENGINES} engines, ${ROUNDS} rounds of ${SECONDS} s\n`,
);
console.log(`| body, connections | ${names.join(" | ")} |`);
console.log(`|---|${"---|".repeat(names.length)}`);
for (const { row, cells } of table) {
  const shown = names.map((name) => {
    const cell = cells.get(name)!;
    return `${cell.micros.toFixed(0)}, ${cell.p50.toFixed(2)}${cell.failures > 0 ? `, ${cell.failures} FAILED` : ""}`;
  });
  console.log(`| ${row} | ${shown.join(" | ")} |`);
}
