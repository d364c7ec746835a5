// SPDX-License-Identifier: Apache-2.0
// Processes under a benchmark: how they are started, and what they have used, read from /proc.

/** The repository. */
export const root = new URL("../", import.meta.url).pathname;

/** What the gateway, engines and proxies are run with. */
export const RUN = [
  "run",
  "--no-check",
  "--allow-net",
  "--allow-read",
  "--allow-write",
  "--allow-env",
  "--allow-sys=hostname",
];

/** V8's flags of `deno task aigw`. */
export const GATEWAY_FLAGS = "--v8-flags=--max-semi-space-size=64,--semi-space-growth-factor=4";

/** Waits until somebody listens on a port of this machine. Throws Error after ten seconds. */
export async function listening(port: number): Promise<void> {
  for (let i = 0; i < 200; i++) {
    try {
      (await Deno.connect({ hostname: "127.0.0.1", port })).close();
      return;
    } catch {
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }
  throw new Error(`Nothing listens on port ${port}`);
}

/** A process and its children: nginx works in one. */
async function familyOf(pid: number): Promise<number[]> {
  const text = await Deno.readTextFile(`/proc/${pid}/task/${pid}/children`).catch(() => "");
  return [pid, ...text.trim().split(" ").filter((one) => one !== "").map(Number)];
}

/** Processor microseconds that a process and its children have used. */
export async function processorMicros(pid: number): Promise<number> {
  let ticks = 0;
  for (const one of await familyOf(pid)) {
    const stat = await Deno.readTextFile(`/proc/${one}/stat`);
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    ticks += Number(fields[11]) + Number(fields[12]);
  }
  return ticks * 10_000;
}

/** Resident KiB of a process and its children. */
export async function residentKib(pid: number): Promise<number> {
  let kib = 0;
  for (const one of await familyOf(pid)) {
    kib += Number(/VmRSS:\s+(\d+)/.exec(await Deno.readTextFile(`/proc/${one}/status`))![1]);
  }
  return kib;
}
