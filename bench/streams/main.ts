// SPDX-License-Identifier: Apache-2.0
// `deno task bench:streams`: many long streams at once through one gateway worker; none may be lost and its memory has to
// stay flat. Options: --streams N (5000), --rate N tokens a second of each (1), --seconds N (180), --ramp N (20).

import { helpOf } from "../../test/support/task_help.ts";
import { parseArgs } from "@std/cli/parse-args";
import { GATEWAY_FLAGS, listening, residentKib, root, RUN } from "../process.ts";

helpOf(`Usage: deno task bench:streams [options]

Many long streams at once through one worker.

  --streams N (5000), --rate N tokens a second of each (1), --seconds N (180), --ramp N (20)`);

const options = parseArgs(Deno.args, {
  string: ["streams", "rate", "seconds", "ramp"],
  default: { streams: "5000", rate: "1", seconds: "180", ramp: "20" },
});
const [streams, rate, seconds, ramp] = [options.streams, options.rate, options.seconds, options.ramp].map(Number);
const ENGINES = 20;
const [ENGINE_PORT, PORT, ADMIN] = [19_700, 19_690, 19_691];

function spawn(args: string[], stdout: "null" | "piped"): Deno.ChildProcess {
  return new Deno.Command(Deno.execPath(), { args: [...RUN, ...args], stdout, stderr: "inherit" }).spawn();
}

/** The bound below which 99 % of the event loop's delays lay, in milliseconds. */
async function loopDelayP99(): Promise<number> {
  const text = await (await fetch(`http://127.0.0.1:${ADMIN}/metrics`)).text();
  const buckets = [...text.matchAll(/aigw_event_loop_delay_seconds_bucket\{le="([^"]+)"\} (\d+)/g)]
    .map(([, bound, count]) => ({ bound: Number(bound.replace("+Inf", "Infinity")), count: Number(count) }));
  const total = buckets.at(-1)!.count;
  return buckets.find(({ count }) => count >= total * 0.99)!.bound * 1_000;
}

const folder = await Deno.makeTempDir();
const endpoints = Array.from({ length: ENGINES }, (_, i) => ({ address: "127.0.0.1", port: ENGINE_PORT + i }));
await Deno.writeTextFile(
  `${folder}/gateway.json`,
  JSON.stringify({
    listen: `127.0.0.1:${PORT}`,
    admin: { listen: `127.0.0.1:${ADMIN}` },
    workers: 1,
    clusters: [{ name: "c", endpoints }],
    model_mapping_rule: { m: { rules: [{ backend: "vllm", cluster: "c" }] } },
  }),
);
const processes = [
  spawn([`${root}bench/streams/engines.ts`, ...[ENGINE_PORT, ENGINES, streams / ENGINES, rate].map(String)], "null"),
  spawn([
    GATEWAY_FLAGS,
    `${root}src/main.ts`,
    "serve",
    "--config",
    `${folder}/gateway.json`,
  ], "null"),
];
const gateway = processes[1];
try {
  await listening(ENGINE_PORT + ENGINES - 1);
  await listening(PORT);
  await new Promise((resolve) => setTimeout(resolve, 2_000));
  const before = await residentKib(gateway.pid) / 1_024;
  const clients = spawn(
    [`${root}bench/streams/clients.ts`, ...[PORT, streams, seconds * rate, ramp].map(String)],
    "piped",
  );
  processes.push(clients);
  const lines = clients.stdout.pipeThrough(new TextDecoderStream()).getReader();
  const line = async () => JSON.parse((await lines.read()).value!.trim().split("\n").at(-1)!);
  const begun = await line();
  const atRamp = await residentKib(gateway.pid) / 1_024;
  console.log(
    `${streams} streams begun, ${begun.lost} lost; ${atRamp.toFixed(0)} MiB, ${before.toFixed(0)} MiB before`,
  );
  const samples: number[] = [];
  const sampling = setInterval(async () => samples.push(await residentKib(gateway.pid) / 1_024), 5_000);
  const ended = await line();
  clearInterval(sampling);
  await clients.status;
  processes.pop();
  const half = samples.slice(Math.floor(samples.length / 2));
  console.log(`ended: ${JSON.stringify(ended)}`);
  console.log(
    `resident MiB every 5 s: ${samples.map((mib) => mib.toFixed(0)).join(" ")}\nafter the ramp first ${
      samples[0]?.toFixed(0)
    }, most ${Math.max(...samples).toFixed(0)}, most of the second half ${Math.max(...half).toFixed(0)}; ${
      ((atRamp - before) * 1_024 / streams).toFixed(1)
    } KiB a stream`,
  );
  console.log(`event loop delay p99 at most ${await loopDelayP99()} ms`);
} finally {
  for (const process of processes) {
    process.kill("SIGKILL");
    await process.status;
  }
  await Deno.remove(folder, { recursive: true });
}
