// SPDX-License-Identifier: Apache-2.0
// `deno task bench:center`: the metadata center alone, as a process: mixed adds, prompt deletes, deletes and queries over 1
// and 64 connections, and the delay from a change to a watcher. Option: --seconds N (3).

import { helpOf } from "../../test/support/task_help.ts";
import { parseArgs } from "@std/cli/parse-args";
import { ServerSentEventParseStream } from "@std/http/server-sent-event-parse-stream";
import { systemClock } from "../../src/base/clock.ts";
import { Deadlines } from "../../src/base/deadlines.ts";
import { Connection } from "../../src/upstream/connection.ts";
import { PLAIN } from "../../src/upstream/transport.ts";
import { startCenterProcess } from "../../test/support/center.ts";

helpOf(`Usage: deno task bench:center [--seconds N (3)]

The metadata center alone.`);

const { seconds } = parseArgs(Deno.args, { string: ["seconds"], default: { seconds: "3" } });
const encoder = new TextEncoder();
const limits = {
  connectMs: 5_000,
  responseHeaderMs: 10_000,
  streamIdleMs: 10_000,
  responseHeaderBytes: 65_536,
  firstByteMs: 60_000,
  interimAnswers: 16,
};
const deadlines = new Deadlines(systemClock);
let next = 0;

interface Call {
  method: string;
  path: string;
  body: string;
}

/** The calls of one request's life, with a query for every second request. */
function life(): Call[] {
  const id = `r${next++}`;
  const ip = `10.0.0.${next % 64}`;
  const calls = [
    {
      method: "POST",
      path: "/v1/load/stats",
      body: `{"cluster":"c","request_id":"${id}","ip":"${ip}","prompt_length":2048}`,
    },
    { method: "DELETE", path: "/v1/load/prompt", body: `{"request_id":"${id}"}` },
    { method: "DELETE", path: "/v1/load/stats", body: `{"request_id":"${id}"}` },
  ];
  if (next % 2 === 0) calls.push({ method: "GET", path: "/v1/load/stats?cluster=c", body: "" });
  return calls;
}

async function load(port: number, connections: number): Promise<number[]> {
  const latencies: number[] = [];
  const end = performance.now() + Number(seconds) * 1_000;
  await Promise.all(Array.from({ length: connections }, async () => {
    const connection = await Connection.open({
      address: { hostname: "127.0.0.1", port },
      deadlines,
      limits,
      transport: PLAIN,
    });
    while (performance.now() < end) {
      for (const { method, path, body } of life()) {
        const started = performance.now();
        const bytes = encoder.encode(body);
        const head = `${method} ${path} HTTP/1.1\r\nhost: c\r\ncontent-length: ${bytes.length}\r\n\r\n`;
        const { status } = await connection.send(head, bytes);
        while (await connection.readBody() !== null);
        if (status !== 200) throw new Error(`${method} ${path} was answered ${status}`);
        latencies.push(performance.now() - started);
      }
    }
    connection.close();
  }));
  return latencies;
}

const at = (values: number[], share: number) =>
  values.toSorted((a, b) => a - b)[Math.floor(values.length * share)].toFixed(2);

await using center = await startCenterProcess();
await load(center.port, 16); // until the compilers have settled
for (const connections of [1, 64]) {
  const latencies = await load(center.port, connections);
  console.log(
    `${connections} connections: ${Math.round(latencies.length / Number(seconds))} requests/s, p50 ${
      at(latencies, 0.5)
    } ms, p99 ${at(latencies, 0.99)} ms`,
  );
}

const watch = await fetch(`${center.origin}/v1/watch?cluster=delay`);
const sent = new Map<number, number>();
const delays: number[] = [];
const reading = (async () => {
  const events: AsyncIterable<{ data?: string }> = watch.body!.pipeThrough(new ServerSentEventParseStream());
  for await (const { data } of events) {
    for (const { prompt_length } of JSON.parse(data ?? "[]")) {
      const started = sent.get(prompt_length);
      if (started !== undefined) delays.push(performance.now() - started);
      sent.delete(prompt_length);
    }
    if (delays.length >= 1_000) return;
  }
})();
const connection = await Connection.open({
  address: { hostname: "127.0.0.1", port: center.port },
  deadlines,
  limits,
  transport: PLAIN,
});
for (let i = 1; i <= 1_000; i++) {
  // Each change makes a total that no other does, so that its arrival can be told.
  sent.set(i, performance.now());
  const bytes = encoder.encode(`{"cluster":"delay","request_id":"d${i}","ip":"10.1.0.1","prompt_length":1}`);
  await connection.send(`POST /v1/load/stats HTTP/1.1\r\nhost: c\r\ncontent-length: ${bytes.length}\r\n\r\n`, bytes);
  while (await connection.readBody() !== null);
  await new Promise((resolve) => setTimeout(resolve, 4));
}
await Promise.race([reading, new Promise((resolve) => setTimeout(resolve, 1_000))]);
console.log(
  `watch, from a change to a watcher: p50 ${at(delays, 0.5)} ms, p99 ${at(delays, 0.99)} ms (${delays.length} changes)`,
);
connection.close();
deadlines.close();
await watch.body?.cancel().catch(() => {});
await center.kill();
Deno.exit(0);
