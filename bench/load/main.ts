// SPDX-License-Identifier: Apache-2.0
// `deno task bench:load`: the gateway beside no proxy and two bare ones, in front of the same instant mock engine in the
// same run, and beside nginx where that is installed. The proxy under test has a core of its own where taskset is installed; engine and load share another. Figures
// are medians over rounds; processor time is that of the proxy's process, read from /proc.
// Options: --seconds N (2), --rounds N (3), --chunks N (100), --json FILE, --beside FOLDER (another checkout of this
// project, measured in the same run), --only NAME,NAME (of the targets).

import { parseArgs } from "@std/cli/parse-args";
import { GATEWAY_FLAGS, listening, processorMicros, residentKib, root, RUN } from "../process.ts";

const options = parseArgs(Deno.args, {
  string: ["seconds", "rounds", "chunks", "json", "beside", "only"],
  default: { seconds: "2", rounds: "3", chunks: "100" },
});
const SECONDS = Number(options.seconds);
const ROUNDS = Number(options.rounds);
const CHUNKS = Number(options.chunks);
const folder = await Deno.makeTempDir();
const [ENGINE, PORT] = [19_010, 19_000];

const installed = (name: string) => new Deno.Command("which", { args: [name], stdout: "null" }).outputSync().success;
const pinning = installed("taskset") && navigator.hardwareConcurrency > 1;
const wrk = installed("wrk");
const nginx = installed("nginx");

function spawn(core: number, command: string, args: string[]): Deno.ChildProcess {
  const [program, all] = pinning ? ["taskset", ["-c", String(core), command, ...args]] : [command, args];
  return new Deno.Command(program as string, { args: all as string[], stdout: "null", stderr: "inherit" }).spawn();
}

const deno = Deno.execPath();
/** KiB that each of many streams costs while it is silent: they begin, get their first token, and wait. */
async function memoryPerStream({ port, proxy }: Target, streams: number): Promise<number> {
  const body = JSON.stringify({ model: "m", stream: true, max_tokens: 5, messages: [{ role: "user", content: "x" }] });
  const request = new TextEncoder().encode(
    `POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-mock-fault: {"kind":"stall","after_tokens":1}\r\ncontent-length: ${body.length}\r\n\r\n${body}`,
  );
  const before = await residentKib(proxy!.pid);
  const connections: Deno.TcpConn[] = [];
  for (let i = 0; i < streams; i++) {
    const connection = await Deno.connect({ hostname: "127.0.0.1", port });
    connections.push(connection);
    await connection.write(request);
    await connection.read(new Uint8Array(2_048));
  }
  const after = await residentKib(proxy!.pid);
  for (const connection of connections) connection.close();
  return (after - before) / streams;
}

interface Load {
  requests: number;
  seconds: number;
  p50: number;
  p99: number;
  failures: number;
}

async function load(port: number, connections: number, seconds: number, body: string): Promise<Load> {
  const generator = wrk
    ? ["wrk", [
      "-t1",
      `-c${connections}`,
      `-d${seconds}`,
      "--latency",
      "-s",
      `${folder}/post.lua`,
      `http://127.0.0.1:${port}/v1/chat/completions`,
      "--",
      body,
    ]] as const
    : [deno, [
      ...RUN,
      `${root}bench/load/generator.ts`,
      String(port),
      String(connections),
      String(seconds),
      body,
    ]] as const;
  const [program, args] = pinning ? ["taskset", ["-c", "0", generator[0], ...generator[1]]] : generator;
  const { stdout } = await new Deno.Command(program as string, { args: [...args], stdout: "piped", stderr: "inherit" })
    .output();
  const text = new TextDecoder().decode(stdout);
  if (!wrk) return JSON.parse(text);
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

await Deno.writeTextFile(
  `${folder}/post.lua`,
  `wrk.method = "POST"\nwrk.headers["Content-Type"] = "application/json"\nfunction init(args) wrk.body = io.open(args[1]):read("*a") end\nfunction request() return wrk.format() end\n`,
);
const GATEWAY_PORTS: Record<string, number> = { "aigw": PORT + 8, "aigw, limits": PORT + 7, "aigw, beside": PORT + 6 };
/** A gateway's config; `more` is merged over it. Returns the arguments of its process, whose code is in `source`. */
async function gateway(name: string, more: Record<string, unknown> = {}, source = root): Promise<string[]> {
  const port = GATEWAY_PORTS[name];
  const file = `${folder}/${port}.json`;
  const config = {
    admin: { listen: `127.0.0.1:${port + 100}` },
    metadata_center: { listen: "127.0.0.1:0" },
    log: { level: "error" },
    clusters: [{ name: "c", endpoints: [{ address: "127.0.0.1", port: ENGINE }] }],
    model_mapping_rule: { m: { rules: [{ backend: "vllm", cluster: "c" }] } },
    ...more,
  };
  await Deno.writeTextFile(file, JSON.stringify(config));
  const listen = ["--listen", `127.0.0.1:${port}`];
  return [GATEWAY_FLAGS, `${source}/src/main.ts`, "serve", "--config", file, ...listen, "--workers", "1"];
}

/** Limits that are counted and never reached. */
const LIMITS = {
  requests_per_minute: 200_000_000,
  input_tokens_per_minute: 200_000_000,
  output_tokens_per_minute: 200_000_000,
  concurrency: 1_000_000,
};

const NGINX_PORT = PORT + 9;
await Deno.writeTextFile(
  `${folder}/nginx.conf`,
  `worker_processes 1; daemon off; error_log ${folder}/nginx.log; pid ${folder}/nginx.pid;
events { worker_connections 16384; }
http {
  access_log off;
  client_body_temp_path ${folder}/1; proxy_temp_path ${folder}/2; fastcgi_temp_path ${folder}/3;
  uwsgi_temp_path ${folder}/4; scgi_temp_path ${folder}/5;
  upstream engine { server 127.0.0.1:${ENGINE}; keepalive 1024; keepalive_requests 100000000; }
  server {
    listen 127.0.0.1:${NGINX_PORT}; keepalive_requests 100000000;
    location / {
      proxy_pass http://engine; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
      client_body_buffer_size 64k;
    }
  }
}
`,
);

/** What is measured, each on a port of its own. All run at once and are measured in turn, so that a machine whose speed drifts treats them alike. */
const TARGETS: Record<string, string[] | undefined> = {
  "direct": undefined,
  "fetch, piped": [`${root}bench/load/bare_proxy.ts`, "pipe", String(PORT + 1), String(ENGINE)],
  "fetch, read": [`${root}bench/load/bare_proxy.ts`, "read", String(PORT + 2), String(ENGINE)],
  ...(nginx ? { "nginx": ["-c", `${folder}/nginx.conf`] } : {}),
  "aigw": await gateway("aigw"),
  ...(options.beside ? { "aigw, beside": await gateway("aigw, beside", {}, options.beside) } : {}),
  "aigw, limits": await gateway("aigw, limits", { tenancy: { anonymous: { limits: LIMITS } } }),
};
const only = options.only?.split(/,(?! )/);

interface Row {
  target: string;
  stream: boolean;
  bodyBytes: number;
  connections: number;
  requestsPerSecond: number;
  p50Ms: number;
  p99Ms: number;
  /** Processor microseconds of the proxy for a request, or for a chunk when streaming. */
  processorMicros: number | undefined;
  failures: number;
}

interface Target {
  name: string;
  port: number;
  proxy: Deno.ChildProcess | undefined;
}

async function bodyFile(stream: boolean, bodyBytes: number): Promise<string> {
  const file = `${folder}/body-${stream}-${bodyBytes}.json`;
  const body = { model: "m", stream, max_tokens: stream ? CHUNKS : 16, messages: [{ role: "user", content: "" }] };
  body.messages[0].content = "hello world ".repeat(bodyBytes).slice(0, bodyBytes - JSON.stringify(body).length);
  await Deno.writeTextFile(file, JSON.stringify(body));
  return file;
}

async function once({ port, proxy }: Target, connections: number, file: string, stream: boolean) {
  const before = proxy && await processorMicros(proxy.pid);
  const result = await load(port, connections, SECONDS, file);
  const used = proxy && await processorMicros(proxy.pid) - before!;
  const units = stream ? result.requests * CHUNKS : result.requests;
  return { ...result, micros: used === undefined ? undefined : used / units };
}

const rows: Row[] = [];
/** KiB of a silent stream by target. */
const memory = new Map<string, number>();
const STREAMS = 2_000;
const processes = [
  spawn(0, deno, [...RUN, `${root}src/main.ts`, "mock-engine", "--listen", `127.0.0.1:${ENGINE}`, "--instant"]),
];
try {
  await listening(ENGINE);
  const chosen = Object.entries(TARGETS).filter(([name]) => only?.includes(name) ?? true);
  const targets: Target[] = chosen.map(([name, args]) => {
    const proxy = args && (name === "nginx" ? spawn(1, "nginx", args) : spawn(1, deno, [...RUN, ...args]));
    if (proxy) processes.push(proxy);
    const port = name === "nginx"
      ? NGINX_PORT
      : GATEWAY_PORTS[name] ?? (proxy ? PORT + Object.keys(TARGETS).indexOf(name) : ENGINE);
    return { name, port, proxy };
  });
  for (const { port } of targets) {
    await listening(port);
    // Both kinds of requests until the compilers have settled: what is measured is the steady state.
    for (const stream of [false, true]) await load(port, 64, 5, await bodyFile(stream, 2_048));
  }
  for (const stream of [false, true]) {
    for (const bodyBytes of [200, 2_048, 16_384]) {
      const file = await bodyFile(stream, bodyBytes);
      for (const connections of [1, 64]) {
        const rounds = new Map(targets.map((target) => [target, [] as Awaited<ReturnType<typeof once>>[]]));
        for (let round = 0; round < ROUNDS; round++) {
          for (const target of targets) rounds.get(target)!.push(await once(target, connections, file, stream));
        }
        for (const [{ name, proxy }, all] of rounds) {
          const row: Row = {
            target: name,
            stream,
            bodyBytes,
            connections,
            requestsPerSecond: median(all.map(({ requests, seconds }) => requests / seconds)),
            p50Ms: median(all.map(({ p50 }) => p50)),
            p99Ms: median(all.map(({ p99 }) => p99)),
            processorMicros: proxy && median(all.map(({ micros }) => micros!)),
            failures: all.reduce((sum, { failures }) => sum + failures, 0),
          };
          rows.push(row);
          console.error(JSON.stringify(row));
        }
      }
    }
  }
  // Last: thousands of connections leave their traces in every process.
  for (const target of targets) {
    if (target.proxy) memory.set(target.name, await memoryPerStream(target, STREAMS));
  }
} finally {
  for (const process of processes) {
    process.kill("SIGTERM");
    await process.status;
  }
  await Deno.remove(folder, { recursive: true });
}

if (options.json) {
  await Deno.writeTextFile(
    options.json,
    JSON.stringify(
      { seconds: SECONDS, rounds: ROUNDS, chunks: CHUNKS, rows, memory: Object.fromEntries(memory) },
      null,
      2,
    ),
  );
}
const number = (value: number | undefined, digits: number) => value === undefined ? "" : value.toFixed(digits);
console.log(
  `\nLoad by ${wrk ? "wrk" : "bench/load/generator.ts"}, ${
    pinning ? "proxy on a core of its own" : "not pinned"
  }, ${ROUNDS} rounds of ${SECONDS} s, streams of ${CHUNKS} chunks\n`,
);
const names = [...new Set(rows.map(({ target }) => target))];
for (const stream of [false, true]) {
  console.log(`| ${stream ? "streaming" : "whole answers"}: body, connections | ${names.join(" | ")} |`);
  console.log(`|---|${"---|".repeat(names.length)}`);
  for (const bodyBytes of [200, 2_048, 16_384]) {
    for (const connections of [1, 64]) {
      const cells = names.map((target) => {
        const row = rows.find((one) =>
          one.target === target && one.stream === stream && one.bodyBytes === bodyBytes &&
          one.connections === connections
        )!;
        const processor = row.processorMicros === undefined ? "" : `, ${number(row.processorMicros, 1)} µs CPU`;
        return `${Math.round(row.requestsPerSecond)}/s, ${number(row.p50Ms, 2)}/${number(row.p99Ms, 2)} ms${processor}${
          row.failures ? `, ${row.failures} FAILED` : ""
        }`;
      });
      console.log(`| ${bodyBytes} B, ${connections} | ${cells.join(" | ")} |`);
    }
  }
  console.log();
}
console.log(`| memory of a silent stream, of ${STREAMS} |`);
console.log(`|---|`);
for (const [target, kib] of memory) console.log(`| ${target}: ${kib.toFixed(1)} KiB |`);
console.log();
console.log(
  "Each cell: requests/s, p50/p99, processor time of the proxy per " + "request (whole answers) or chunk (streaming)",
);
