// SPDX-License-Identifier: Apache-2.0
// Metadata centers for tests: a process that can be killed and started again on the same port, and a stand-in for the Go
// center, which knows only the documented calls.

export interface CenterHandle extends AsyncDisposable {
  readonly origin: string;
  readonly port: number;
  kill(signal?: Deno.Signal): Promise<void>;
}

/** Starts `aigw metadata-center` as a process; `config` is YAML. */
export async function startCenterProcess(config = "", port = 0): Promise<CenterHandle> {
  const file = await Deno.makeTempFile({ suffix: ".yaml" });
  await Deno.writeTextFile(file, config);
  const child = new Deno.Command(Deno.execPath(), {
    args: [
      "run",
      "--allow-net",
      "--allow-read",
      "--allow-env",
      "--allow-sys=hostname,networkInterfaces",
      new URL("../../src/main.ts", import.meta.url).pathname,
      "metadata-center",
      "--config",
      file,
      "--listen",
      `127.0.0.1:${port}`,
    ],
    stdout: "piped",
    stderr: "inherit",
  }).spawn();
  const reader = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  while (!text.includes("\n")) {
    const { value, done } = await reader.read();
    if (done) throw new Error("The center ended before it listened");
    text += value;
  }
  reader.releaseLock();
  await Deno.remove(file);
  const own = Number(/:(\d+)\s/.exec(text)![1]);
  let over = false;
  const kill = async (signal: Deno.Signal = "SIGKILL") => {
    if (over) return;
    over = true;
    child.kill(signal);
    await child.status;
    await child.stdout.cancel().catch(() => {});
  };
  return { origin: `http://127.0.0.1:${own}`, port: own, kill, [Symbol.asyncDispose]: () => kill() };
}
