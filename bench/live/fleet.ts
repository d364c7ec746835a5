// SPDX-License-Identifier: Apache-2.0
// A whole fleet for the live benches: mock engines and a gateway as processes on this machine, and a client that streams.

import { listening, root, RUN } from "../process.ts";

export interface Process {
  readonly port: number;
  readonly pid: number;
  kill(signal?: Deno.Signal): Promise<void>;
}

let nextPort = 21_000;

async function start(args: (port: number) => string[]): Promise<Process> {
  const port = nextPort++;
  const child = new Deno.Command(Deno.execPath(), {
    args: [
      ...RUN.map((flag) => flag.replace("hostname", "hostname,networkInterfaces")),
      `${root}src/main.ts`,
      ...args(port),
    ],
    stdout: "null",
    stderr: "inherit",
  }).spawn();
  await listening(port);
  let over = false;
  const kill = async (signal: Deno.Signal = "SIGKILL") => {
    if (over) return;
    over = true;
    child.kill(signal);
    await child.status;
  };
  return { port, pid: child.pid, kill };
}

export function startEngine(speed: number): Promise<Process> {
  return start((port) => ["mock-engine", "--listen", `127.0.0.1:${port}`, "--model", "m", "--speed", String(speed)]);
}

/** A gateway in front of these ports; `config` is merged over the top level. */
export async function startGateway(
  ports: number[],
  config: Record<string, unknown>,
): Promise<Process & { admin: string }> {
  const admin = nextPort++;
  const file = await Deno.makeTempFile({ suffix: ".json" });
  await Deno.writeTextFile(
    file,
    JSON.stringify({
      admin: { listen: `127.0.0.1:${admin}` },
      metadata_center: { enabled: false },
      reload: { watch: false },
      log: { level: "error", enabled: false },
      clusters: [{ name: "c", endpoints: ports.map((port) => ({ address: "127.0.0.1", port })) }],
      model_mapping_rule: { m: { rules: [{ backend: "vllm", cluster: "c" }] } },
      ...config,
    }),
  );
  const gateway = await start((port) => ["serve", "--config", file, "--listen", `127.0.0.1:${port}`]);
  await Deno.remove(file);
  return { ...gateway, admin: `http://127.0.0.1:${admin}` };
}

/** What became of a request. */
export interface Answer {
  status: number;
  /** Milliseconds to the first event; NaN without one. */
  ttftMs: number;
  /** Milliseconds to the end. */
  totalMs: number;
  promptTokens: number;
  cachedTokens: number;
  reason: string;
}

const USAGE = /"prompt_tokens":(\d+).*?"cached_tokens":(\d+)/;

/** Sends a chat request and streams its answer. Never throws: status 0 is a connection that broke, or an own abort. */
export async function ask(
  port: number,
  content: string,
  maxTokens: number,
  { headers = {}, signal, stream = true }: {
    headers?: Record<string, string>;
    signal?: AbortSignal;
    stream?: boolean;
  } = {},
): Promise<Answer> {
  const began = performance.now();
  const answer = { status: 0, ttftMs: NaN, totalMs: NaN, promptTokens: 0, cachedTokens: 0, reason: "" };
  try {
    const response = await fetch(`http://127.0.0.1:${port}/v1/chat/completions`, {
      method: "POST",
      headers: { "content-type": "application/json", ...headers },
      body: JSON.stringify({
        model: "m",
        stream,
        max_tokens: maxTokens,
        ...(stream ? { stream_options: { include_usage: true } } : {}),
        messages: [{ role: "user", content }],
      }),
      signal,
    });
    answer.reason = response.headers.get("x-aigw-reason") ?? "";
    let tail = "";
    for await (const piece of response.body!.pipeThrough(new TextDecoderStream())) {
      if (Number.isNaN(answer.ttftMs) && piece.includes("data:")) answer.ttftMs = performance.now() - began;
      tail = (tail + piece).slice(-2_000);
      if (piece.includes('"error"')) answer.reason = /"code":"(\w+)"/.exec(piece)?.[1] ?? "error";
    }
    const usage = USAGE.exec(tail);
    if (usage) [answer.promptTokens, answer.cachedTokens] = [Number(usage[1]), Number(usage[2])];
    answer.status = answer.reason !== "" && response.status === 200 ? 500 : response.status;
  } catch {
    // told by the status
  }
  answer.totalMs = performance.now() - began;
  return answer;
}

export const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** Text of so many tokens of 4 bytes that is the same for the same id. */
export function textOf(id: number, tokens: number): string {
  const word = `${(id * 2_654_435_761 >>> 0).toString(16).padStart(8, "0")}${id.toString(16).padStart(7, "0")} `;
  return word.repeat(Math.ceil(tokens / 4)).slice(0, 4 * tokens);
}

export const median = (values: number[]) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];
export const mean = (values: number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;
export function quantile(values: number[], share: number): number {
  return values.toSorted((a, b) => a - b)[Math.min(values.length - 1, Math.floor(values.length * share))];
}
