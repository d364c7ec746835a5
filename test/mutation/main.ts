// SPDX-License-Identifier: Apache-2.0
// `deno task mutate [NAME]`: puts each fault of faults.ts into a copy of the project and runs its tests, which have to
// fail. First they have to pass without it. A survivor is a failure; so is a fault whose place has changed.

import { helpOf } from "../support/task_help.ts";
import type { Fault } from "./fault.ts";
import { FAULTS } from "./faults.ts";

helpOf("Usage: deno task mutate [WORDS]\n\nOnly faults whose names have these words, all without.");

const ROOT = new URL("../../", import.meta.url).pathname;
const PERMISSIONS = ["--allow-net", "--allow-read", "--allow-write", "--allow-env", "--allow-run"];
const SYSTEM = "--allow-sys=hostname,networkInterfaces";

/** Whether the tests pass, and what they said. */
async function test(folder: string, files: readonly string[]): Promise<{ passed: boolean; said: string }> {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["test", "--config", "test/deno.json", "--no-check", "--fail-fast", ...PERMISSIONS, SYSTEM, ...files],
    cwd: folder,
    env: { NO_COLOR: "1" },
  }).output();
  return { passed: code === 0, said: new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr) };
}

async function build(folder: string): Promise<void> {
  const { success } = await new Deno.Command(Deno.execPath(), {
    args: ["task", "build:wasm"],
    cwd: folder,
    stdout: "null",
    stderr: "null",
  }).output();
  if (!success) throw new Error("the kernel cannot be built");
}

/** The first test that failed. */
function noticedBy(said: string): string {
  return /^(.*?) => \.\/(test\/\S+?):/m.exec(said)?.slice(1).join(" (") + ")";
}

async function attempt(folder: string, { file, was, is, tests }: Fault): Promise<string | undefined> {
  const path = `${folder}/${file}`;
  const text = await Deno.readTextFile(path);
  if (text.split(was).length !== 2) {
    throw new Error(`${file} has ${text.split(was).length - 1} of ${JSON.stringify(was)}`);
  }
  const kernel = file.startsWith("assembly/");
  try {
    await Deno.writeTextFile(path, text.replace(was, () => is));
    if (kernel) await build(folder);
    const { passed, said } = await test(folder, tests);
    return passed ? undefined : noticedBy(said);
  } finally {
    await Deno.writeTextFile(path, text);
    if (kernel) await build(folder);
  }
}

const wanted = FAULTS.filter(({ name }) => Deno.args.every((word) => name.includes(word)));
const folder = await Deno.makeTempDir();
const survivors: string[] = [];
try {
  for (
    const name of ["src", "test", "bench", "wasm", "assembly", "config", "docs", "deno.json", "deno.lock", "README.md"]
  ) {
    await new Deno.Command("cp", { args: ["-r", `${ROOT}${name}`, folder] }).output();
  }
  const all = [...new Set(wanted.flatMap(({ tests }) => tests))];
  const before = await test(folder, all);
  if (!before.passed) throw new Error(`the tests fail without any fault:\n${before.said.slice(-2_000)}`);
  for (const fault of wanted) {
    const noticed = await attempt(folder, fault);
    console.log(`${noticed === undefined ? "SURVIVES" : "noticed "} ${fault.name}${noticed ? `: ${noticed}` : ""}`);
    if (noticed === undefined) survivors.push(fault.name);
  }
} finally {
  await Deno.remove(folder, { recursive: true });
}
console.log(`${wanted.length - survivors.length} of ${wanted.length} faults are noticed`);
Deno.exit(survivors.length === 0 ? 0 : 1);
