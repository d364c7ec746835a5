// SPDX-License-Identifier: Apache-2.0
// A closed loop of requests over plain sockets: each connection sends the next request when the answer to the last one is
// complete. Used where wrk is not installed; prints one JSON line.
// Usage: generator.ts PORT CONNECTIONS SECONDS BODY_FILE

import { systemClock } from "../../src/base/clock.ts";
import { Deadlines } from "../../src/base/deadlines.ts";
import { Connection } from "../../src/upstream/connection.ts";
import { PLAIN } from "../../src/upstream/transport.ts";
import { requestHead } from "../../src/upstream/request_head.ts";

const [port, connections, seconds, file] = Deno.args;
const body = await Deno.readFile(file);
const head = requestHead({
  method: "POST",
  path: "/v1/chat/completions",
  host: "bench",
  fields: "content-type: application/json\r\n",
  bodyBytes: body.length,
});
const limits = {
  connectMs: 5_000,
  responseHeaderMs: 60_000,
  streamIdleMs: 60_000,
  responseHeaderBytes: 65_536,
  firstByteMs: 60_000,
  interimAnswers: 16,
};
const deadlines = new Deadlines(systemClock);
const end = performance.now() + Number(seconds) * 1_000;
const latencies: number[] = [];
let failures = 0;

async function loop(): Promise<void> {
  const connection = await Connection.open({
    address: { hostname: "127.0.0.1", port: Number(port) },
    deadlines,
    limits,
    transport: PLAIN,
  });
  for (let now = performance.now(); now < end; now = performance.now()) {
    const { status } = await connection.send(head, body);
    while (await connection.readBody() !== null);
    if (status !== 200) failures++;
    latencies.push(performance.now() - now);
  }
  connection.close();
}

const started = performance.now();
await Promise.all(Array.from({ length: Number(connections) }, loop));
const elapsed = (performance.now() - started) / 1_000;
latencies.sort((a, b) => a - b);
const at = (share: number) => latencies[Math.min(latencies.length - 1, Math.floor(latencies.length * share))];
console.log(JSON.stringify({ requests: latencies.length, seconds: elapsed, p50: at(0.5), p99: at(0.99), failures }));
Deno.exit(0);
