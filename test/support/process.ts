// SPDX-License-Identifier: Apache-2.0
// `aigw` as a process of its own, which can be killed.

export interface AigwProcess extends AsyncDisposable {
  /** The port that its first line of output names. */
  readonly port: number;
  readonly pid: number;
  kill(signal?: Deno.Signal): Promise<void>;
  /** Sends a signal that ends it by itself; resolves with its exit status. */
  end(signal: Deno.Signal): Promise<number>;
  signal(signal: Deno.Signal): void;
}

/** Starts `aigw` with these arguments and waits for its first line. Throws Error when it ends before. */
export async function startAigw(
  args: string[],
  stderr: "inherit" | "null" = "inherit",
  env: Record<string, string> = {},
): Promise<AigwProcess> {
  const permissions = [
    "--allow-net",
    "--allow-read",
    "--allow-env",
    "--allow-sys=hostname,networkInterfaces",
    "--allow-run=cat",
  ];
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", ...permissions, new URL("../../src/main.ts", import.meta.url).pathname, ...args],
    stdout: "piped",
    stderr,
    env,
  }).spawn();
  const reader = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  while (!text.includes("\n")) {
    const { value, done } = await reader.read();
    if (done) {
      await child.status;
      throw new Error(`aigw ${args[0]} ended before it listened`);
    }
    text += value;
  }
  // What else it says is read to its end, so that it never waits for a reader and nothing stays open.
  const said = (async () => {
    while (!(await reader.read()).done);
  })();
  let ended: Promise<number> | undefined;
  const end = (signal: Deno.Signal): Promise<number> =>
    ended ??= (async () => {
      child.kill(signal);
      const { code } = await child.status;
      await said;
      return code;
    })();
  return {
    port: Number(/:(\d+)(?:\/v1)?\s/.exec(text)![1]),
    pid: child.pid,
    end,
    signal: (signal) => child.kill(signal),
    kill: async (signal = "SIGKILL") => void await end(signal),
    [Symbol.asyncDispose]: async () => void await end("SIGKILL"),
  };
}
