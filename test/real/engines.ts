// SPDX-License-Identifier: Apache-2.0
// Real engines as processes of their own, from a folder that setup.sh has filled: vLLM on CPU, `transformers serve` and
// llama.cpp's server, each with a tiny random model, and KServe's protocol in Google's gRPC.

import { until } from "../support/until.ts";

type Kind = "vllm" | "transformers" | "llamacpp" | "kserve";

/** What an engine is started from. */
const NEEDED: Record<Kind, string> = {
  vllm: "venv/bin/vllm",
  transformers: "venv/bin/transformers",
  llamacpp: "llamacpp/bin/python",
  kserve: "kserve/bin/python",
};

/** The folder with the engines; undefined when there is none, and then why. */
export function folderOf(kind: Kind): { folder?: string; why: string } {
  const folder = Deno.env.get("AIGW_REAL_ENGINES");
  const setup = `sh test/real/${kind === "transformers" ? "vllm" : kind}/setup.sh FOLDER`;
  if (folder === undefined) return { why: `AIGW_REAL_ENGINES names no folder: ${setup}` };
  const needed = NEEDED[kind];
  try {
    Deno.statSync(`${folder}/${needed}`);
    return { folder, why: "" };
  } catch {
    return { why: `${folder} has no ${needed}: ${setup}` };
  }
}

export interface RealEngine extends AsyncDisposable {
  readonly address: { hostname: string; port: number };
  readonly pid: number;
  readonly url: string;
  /** Processes that it started whose command line has this text. */
  children(text: string): Promise<number[]>;
}

/** Starts an engine and waits until it is healthy. */
export async function startEngine(
  kind: Kind,
  folder: string,
  port: number,
  env: Record<string, string> = {},
  flags: readonly string[] = [],
): Promise<RealEngine> {
  const script = new URL(`./${kind}/start.sh`, import.meta.url).pathname;
  const log = await Deno.makeTempFile({ prefix: `aigw-${kind}-`, suffix: ".log" });
  const child = new Deno.Command("bash", {
    args: ["-c", `exec "$0" "$@" > ${log} 2>&1`, script, folder, String(port), ...flags],
    env,
    stdin: "null",
  }).spawn();
  const url = `http://127.0.0.1:${port}`;
  const healthPort = kind === "kserve" ? port + 1 : port; // gRPC has its own
  let ended = false;
  child.status.then(() => ended = true);
  await until(
    async () => {
      if (ended) throw new Error(`the engine ended: ${(await Deno.readTextFile(log)).slice(-2_000)}`);
      return await fetch(`http://127.0.0.1:${healthPort}/health`).then(async (response) => {
        await response.body?.cancel();
        return response.status === 200;
      }, () => false);
    },
    `the engine on port ${port} is healthy`,
    240_000,
  );
  const children = async (text: string): Promise<number[]> => {
    const { stdout } = await new Deno.Command("ps", { args: ["-eo", "pid=,ppid=,args="] }).output();
    return new TextDecoder().decode(stdout).split("\n").map((line) => line.trim().split(/\s+/))
      .filter(([, parent, ...args]) => Number(parent) === child.pid && args.join(" ").includes(text))
      .map(([pid]) => Number(pid));
  };
  return {
    address: { hostname: "127.0.0.1", port },
    pid: child.pid,
    url,
    children,
    async [Symbol.asyncDispose]() {
      const inside = await children("");
      if (!ended) child.kill("SIGTERM");
      const waiting = setTimeout(() => child.kill("SIGKILL"), 10_000);
      await child.status;
      clearTimeout(waiting);
      for (const pid of inside) {
        try {
          Deno.kill(pid, "SIGKILL");
        } catch {
          // it ended with its parent
        }
      }
    },
  };
}

/** One figure of an engine's metrics, summed over its series. */
export async function figure(engine: RealEngine, name: string): Promise<number> {
  const text = await (await fetch(`${engine.url}/metrics`)).text();
  return text.split("\n").filter((line) => line.startsWith(`${name}{`) || line.startsWith(`${name} `))
    .reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(" ") + 1)), 0);
}
