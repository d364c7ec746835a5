// SPDX-License-Identifier: Apache-2.0
// `deno task compile [TARGET ...]`: the gateway as one program, dist/aigw, or dist/aigw-TARGET for each target. Workers,
// kernel, page and the demonstration's configuration are inside. A program runs with all permissions, as others do.

const TARGETS: readonly string[] = ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"];
const ROOT = new URL("../../", import.meta.url).pathname;

/** Throws Error with a plain message. */
async function compile(target: string | undefined, output: string): Promise<void> {
  const { code, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [
      "compile",
      "--no-check",
      "--v8-flags=--max-semi-space-size=64,--semi-space-growth-factor=4",
      "--allow-all",
      "--include=wasm/kernel.wasm",
      "--include=src/server/worker.ts",
      "--include=src/tokens/thread.ts",
      ...(target === undefined ? [] : [`--target=${target}`]),
      `--output=${output}`,
      "src/main.ts",
    ],
    cwd: ROOT,
    env: { NO_COLOR: "1" },
    stdout: "inherit",
    stderr: "piped",
  }).output();
  const said = new TextDecoder().decode(stderr);
  if (code === 0) {
    const { size } = await Deno.stat(`${ROOT}${output}`);
    console.log(`${output}: ${(size / 1e6).toFixed(0)} MB`);
    return;
  }
  if (/denort|dl\.deno\.land/i.test(said) && Deno.env.get("DENORT_BIN") === undefined) {
    const wanted = `Deno ${Deno.version.deno}${target === undefined ? "" : ` for ${target}`}`;
    throw new Error(
      `The runtime's stub of ${wanted} cannot be downloaded from here: set DENORT_BIN to a denort of that version`,
    );
  }
  throw new Error(said.trim());
}

if (Deno.args.includes("--help")) {
  console.log(`Usage: deno task compile [TARGET ...]\n\nTargets: ${TARGETS.join(", ")}; this machine's without one.`);
  Deno.exit(0);
}
try {
  for (const target of Deno.args) {
    if (!TARGETS.includes(target)) throw new Error(`No target "${target}"; there are: ${TARGETS.join(", ")}`);
  }
  if (Deno.args.length === 0) await compile(undefined, "dist/aigw");
  for (const target of Deno.args) await compile(target, `dist/aigw-${target}`);
} catch (error) {
  console.error((error as Error).message);
  Deno.exit(1);
}
