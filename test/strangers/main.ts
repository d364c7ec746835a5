// SPDX-License-Identifier: Apache-2.0
// `deno task test:strangers`: a gateway in a process of its own among clients that mean it no good. HTTP/2 floods, h2spec,
// and slowhttptest in three modes against the runtime's server and a direct listener. While they are at it another client
// has to be served, and afterwards the memory has to be bounded. Programs that are not installed are skipped with a word.

import { assert, assertEquals } from "@std/assert";
import { systemClock } from "../../src/base/clock.ts";
import { GrpcServer } from "../../src/grpc/server.ts";
import { chat, startEngines } from "../support/gateway.ts";
import { startAigw } from "../support/process.ts";
import { helpOf } from "../support/task_help.ts";
import { makeCertificate } from "../support/tls.ts";
import { flood, FLOODS } from "./floods.ts";
import { freePort, installed } from "../support/machine.ts";

helpOf(
  "Usage: deno task test:strangers\n\nA gateway among hostile clients; h2spec and slowhttptest are used where they are installed.",
);

const FRAMES = 200_000;
/** What a flood may make the gateway's process larger by, MiB. */
const MOST_MIB = 256;
const SLOW = { "slow heads": "-H", "slow bodies": "-B", "slow readers": "-X" } as const;

await using engines = startEngines(2, { instant: true });
const folder = await Deno.makeTempDir();
const certificate = makeCertificate();
const [main, direct, tls, picker, admin] = [freePort(), freePort(), freePort(), freePort(), freePort()];
await Deno.writeTextFile(
  `${folder}/aigw.yaml`,
  JSON.stringify({
    listen: `127.0.0.1:${main}`,
    listeners: [{ address: `127.0.0.1:${direct}` }],
    ...(certificate
      ? { tls: { listen: `127.0.0.1:${tls}`, cert_file: certificate.cert, key_file: certificate.key } }
      : {}),
    ext_proc: { listen: `127.0.0.1:${picker}` },
    admin: { listen: `127.0.0.1:${admin}` },
    metadata_center: { enabled: false },
    log: { enabled: false },
    workers: 1,
    timeouts: { client_head_ms: 5_000, request_body_ms: 5_000 },
    clusters: [{
      name: "c",
      endpoints: engines.map(({ address }) => ({ address: address.hostname, port: address.port })),
    }],
    model_mapping_rule: { m: { rules: [{ backend: "vllm", cluster: "c" }] } },
  }),
);
await using gateway = await startAigw(["serve", "--config", `${folder}/aigw.yaml`]);
assertEquals(gateway.port, main);

async function metric(name: string): Promise<number> {
  const text = await (await fetch(`http://127.0.0.1:${admin}/metrics`)).text();
  return Number(new RegExp(`^${name}(?:{[^}]*})? (\\S+)$`, "m").exec(text)?.[1] ?? NaN);
}
const memoryMib = async () => await metric("process_resident_memory_bytes") / 2 ** 20;

/** Asks for answers, one after the other, until it is told to stop; resolves with the slowest, ms. */
async function served(port: number, over: () => boolean): Promise<{ answers: number; slowestMs: number }> {
  let [answers, slowestMs] = [0, 0];
  do {
    const began = performance.now();
    const response = await fetch(`http://127.0.0.1:${port}/v1/chat/completions`, {
      method: "POST",
      body: chat("Hello"),
    });
    await response.text();
    assertEquals(response.status, 200);
    slowestMs = Math.max(slowestMs, performance.now() - began);
    answers++;
    await new Promise((resolve) => setTimeout(resolve, 50));
  } while (!over());
  return { answers, slowestMs };
}

async function beside<T>(port: number, hostile: Promise<T>): Promise<[T, { answers: number; slowestMs: number }]> {
  let over = false;
  return await Promise.all([hostile.finally(() => over = true), served(port, () => over)]);
}

const ms = (value: number) => `${Math.round(value)} ms`;
let failed = 0;

await served(main, () => true);
await served(direct, () => true);
const flooded = [["the runtime's server", main], ["ext_proc", picker]] as const;
for (const [what, port, kind] of flooded.flatMap(([what, port]) => FLOODS.map((kind) => [what, port, kind] as const))) {
  const before = await memoryMib();
  const [{ sent, ended }, { answers, slowestMs }] = await beside(main, flood(port, kind, FRAMES));
  const grown = await memoryMib() - before;
  const good = grown < MOST_MIB;
  if (!good) failed++;
  console.log(
    `${good ? "good " : "WRONG"} ${kind}, ${what}: ${
      ended ? "ended by the gateway" : "borne"
    } after ${sent} frames, ${answers} ` +
      `others answered, the slowest in ${ms(slowestMs)}, memory ${grown >= 0 ? "+" : ""}${grown.toFixed(0)} MiB`,
  );
}

/** Runs h2spec against a server on a port of this machine. */
async function spec(what: string, port: number, more: readonly string[]): Promise<void> {
  const args = [...more, "-h", "127.0.0.1", "-p", String(port), "-o", "20"];
  const { stdout } = await new Deno.Command("h2spec", { args, stdout: "piped", stderr: "null" }).output();
  const said = new TextDecoder().decode(stdout);
  const summary = /(\d+) tests, (\d+) passed, (\d+) skipped, (\d+) failed/.exec(said);
  const good = summary !== null && Number(summary[4]) === 0;
  if (!good) failed++;
  console.log(`${good ? "good " : "WRONG"} h2spec, ${what}: ${summary?.[0] ?? ""}`);
  if (!good) console.log(said.slice(said.indexOf("Failures:")));
}

if (!certificate || !installed("h2spec")) console.log("skipped: h2spec is not installed, or openssl is not");
else {
  await spec("the runtime's server", tls, ["-t", "-k", "-P", "/v1/chat/completions"]);
  // It asks for bodies, so it gets a method that has one for everybody.
  const server = new GrpcServer({ hostname: "127.0.0.1", port: 0 }, {
    clock: systemClock,
    limits: { streams: 100, messageBytes: 65_536, headerBytes: 65_536 },
    methods: (_, stream) => ({
      message() {},
      ended() {
        stream.send(new Uint8Array(5));
        stream.close();
      },
      gone() {},
    }),
  });
  await spec("the gRPC server", server.address.port, ["-P", "/any"]);
  await server.shutdown();
}

if (!installed("slowhttptest")) console.log("skipped: slowhttptest is not installed");
else {
  for (const [front, port] of [["the runtime's server", main], ["direct listener", direct]] as const) {
    for (const [mode, option] of Object.entries(SLOW)) {
      const url = `http://127.0.0.1:${port}/v1/chat/completions`;
      const slow = new Deno.Command("slowhttptest", {
        args: [option, "-c", "1000", "-r", "500", "-i", "2", "-l", "15", "-p", "3", "-t", "POST", "-u", url],
        stdout: "piped",
        stderr: "null",
      }).output();
      const [{ stdout }, { answers, slowestMs }] = await beside(port, slow);
      // deno-lint-ignore no-control-regex -- its colors are taken off
      const said = new TextDecoder().decode(stdout).replaceAll(/\x1b\[[0-9;]*m/g, "");
      const last = (word: string) => [...said.matchAll(new RegExp(`^${word}:\\s+(\\S+)`, "gm"))].at(-1)?.[1];
      const available = last("service available");
      const open = last("connected");
      const good = available === "YES";
      if (!good) failed++;
      console.log(
        `${
          good ? "good " : "WRONG"
        } ${mode}, ${front}: ${open} of 1000 connections open after 15 s, ${answers} others ` +
          `answered, the slowest in ${ms(slowestMs)}`,
      );
    }
  }
}
assert(await memoryMib() > 0, "the gateway lives");
await Deno.remove(folder, { recursive: true });
console.log(failed === 0 ? "all good" : `${failed} wrong`);
Deno.exitCode = failed === 0 ? 0 : 1;
